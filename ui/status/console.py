"""What an operator sees and asks: the gateway's facts, read together, and the asks that wait for a reason.

Every call carries the operator's key, and the gateway checks it each time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ui.bodies import Json
from ui.errors import GatewayRefused, NotSignedIn
from ui.gateway import OperatorGateway
from ui.markup import short_version

Move = Literal["canary", "promote", "retire", "withdraw", "rollback", "train", "cancel"]


_DONE = {"canary": "Being tried out", "promote": "Promoted", "retire": "Retired", "withdraw": "Withdrawn"}


@dataclass(frozen=True)
class Facts:
    """One look at everything; `job` is the one shown, with its curve, `canary` what is being tried out."""

    policies: Json
    schedule: Json
    jobs: Sequence[Json]
    audit: Sequence[Json]
    job: Json | None
    canary: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A move that waits for its reason. `of` is the version to move, the job to cancel, or empty."""

    move: Move
    of: str = ""


@dataclass
class Console:
    """One tab's console: what is asked, what is told, which job is shown, and what was drawn last.

    `signed_in` is what the screen shows: the console, the sign-in form, or (None) nothing yet.
    """

    signed_in: bool | None = None
    asked: Asked | None = None
    told: str = ""
    told_bad: bool = False
    job_id: str = ""
    drawn: dict[str, str] = field(default_factory=dict)

    def tell(self, text: str, *, bad: bool = False) -> None:
        self.told, self.told_bad = text, bad


async def look(gateway: OperatorGateway, key: str, job_id: str) -> Facts:
    """Everything the console shows. NotSignedIn when the gateway does not take the key for an operator's."""
    try:
        policies, schedule, jobs, audit, canary = await asyncio.gather(
            gateway.policies(key), gateway.schedule(key), gateway.jobs(key), gateway.audit(key), gateway.canary(key)
        )
        shown = next((job["id"] for job in jobs if job["id"] == job_id), jobs[0]["id"] if jobs else None)
        job = await gateway.job(key, shown) if shown else None
    except GatewayRefused as error:
        raise _as_sign_in(error) from error
    return Facts(policies, schedule, jobs, audit, job, canary)


async def carry_out(gateway: OperatorGateway, key: str, asked: Asked, reason: str, recipe: str = "") -> str:
    """Do what was asked, and say what came of it. A training without a `recipe` takes the default one.

    GatewayRefused when the move is not allowed.
    """
    try:
        if asked.move == "train":
            job = await gateway.train(key, reason, recipe or None)
            return f"Training job {job['id'].removeprefix('job-')[:8]} ({job['recipe']}) is {job['state']}."
        if asked.move == "cancel":
            job = await gateway.cancel(key, asked.of, reason)
            ended = "cancelled" if job["state"] == "failed" else "being cancelled"
            return f"Job {job['id'].removeprefix('job-')[:8]} is {ended}."
        if asked.move == "rollback":
            standing = await gateway.rollback(key, reason)
            return f"Rolled back. {short_version(standing['live'])} is live."
        standing = await gateway.move(key, asked.of, asked.move, reason)
        return f"{_DONE[asked.move]}: {short_version(asked.of)}. {short_version(standing['live'])} is live."
    except GatewayRefused as error:
        raise _as_sign_in(error) from error


def allowed(policy: Mapping[str, Any]) -> tuple[Move, ...]:
    """The moves offered for a policy; the gateway decides. A retired one comes back by rollback only."""
    moves: Mapping[str, tuple[Move, ...]] = {
        "candidate": ("canary", "promote", "withdraw"),
        "canary": ("promote", "retire", "withdraw"),
        "live": ("withdraw",) if policy.get("adapter") else (),
    }
    return moves.get(str(policy["state"]), ())


def _as_sign_in(error: GatewayRefused) -> GatewayRefused | NotSignedIn:
    return NotSignedIn(error.message) if error.status in (401, 403) else error
