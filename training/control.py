"""What the control queue does: announce what training offers, start jobs by the schedule, find jobs nobody works on.

Plain functions on a connected ledger; Celery only calls them. Never imports torch.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from feedback.errors import UnknownPolicy
from feedback.ids import BASE_VERSION, JobId
from feedback.jobs import Announcement, JobRequest, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from feedback.schedule import Decision, ScheduleFacts, decide
from training.errors import SettingsRefused
from training.recipe import load_recipes
from training.settings import Settings

log = logging.getLogger("training.control")

Send = Callable[[JobId], None]
"""Sends the message that says: look at this job."""


@dataclass(frozen=True)
class Desk:
    """The parts of the ledger that control work needs."""

    settings: Settings
    ledger: Ledger
    registry: Registry
    jobs: JobStore


def announcement(settings: Settings) -> Announcement:
    """What training offers here. SettingsRefused when the default recipe does not exist."""
    own = settings.training.recipes
    recipes = load_recipes() | (load_recipes(own) if own else {})
    chosen = settings.training.recipe
    if chosen not in recipes:
        raise SettingsRefused(f"BURNISH_TRAINING_RECIPE = {chosen!r} is no recipe; choose one of {sorted(recipes)}")
    return Announcement(
        recipes={name: recipe.model_dump(mode="json") for name, recipe in recipes.items()},
        default_recipe=chosen,
        rules=settings.schedule,
        code_version=code_version(),
        at=time.time(),
    )


def tick(desk: Desk, send: Send) -> Decision:
    """Announce, look at the schedule, and start a job when it is due."""
    offer = announcement(desk.settings)
    desk.jobs.announce(offer)
    ready = _base_in_use(desk)
    if ready is None:
        return Decision(False, ("the base model is not there yet, or the gateway has not entered it",))
    facts = ScheduleFacts(
        now=time.time(),
        new_pairs=desk.ledger.pairs_since(desk.jobs.snapshot_ordinal()),
        total_pairs=desk.ledger.vote_counts().pairs,
        last_vote_at=desk.ledger.last_vote_at(),
        job_open=desk.jobs.open_job() is not None,
    )
    decision = decide(offer.rules, facts)
    if decision.train:
        events = desk.ledger.standing_events()
        made = desk.jobs.create(
            JobRequest(
                recipe=offer.default_recipe,
                recipe_body=offer.recipes[offer.default_recipe],
                base_digest=ready,
                code_version=offer.code_version,
                event_ids=[event.id for event in events],
                pairs_ordinal=max((event.ordinal for event in events), default=0),
                actor="schedule",
                reason=decision.reasons[0],
            )
        )
        log.info("job %s: %s", made.job.id, decision.reasons[0])
        send(made.job.id)
    return decision


def reconcile(desk: Desk, n_waiting: int, send: Send) -> list[JobId]:
    """Send a message for every job that nobody works on, unless messages (`n_waiting`) are still on their way."""
    if n_waiting:
        return []
    unclaimed = desk.jobs.unclaimed(time.time())
    for job_id in unclaimed:
        send(job_id)
    return unclaimed


@cache
def code_version() -> str:
    """Names the code that decides what a job's adapter becomes: our sources and the libraries that compute."""
    total = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in ("torch", "transformers", "peft", "accelerate"):
        total.update(f"{package} {metadata.version(package)}\n".encode())
    return total.hexdigest()[:12]


def _base_in_use(desk: Desk) -> str | None:
    """The base's digest, once the model is there and the gateway has entered it as the line's base."""
    digest = desk.settings.base_digest()
    try:
        entered = desk.registry.policy(BASE_VERSION).base_digest
    except UnknownPolicy:
        return None
    return digest if digest == entered else None
