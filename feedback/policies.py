"""Policies, the states they may be in, and which of them a model id names. Pure; `moves` has how states change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from feedback.canary import CanaryRules, on_canary_side
from feedback.errors import UnknownPolicy
from feedback.ids import JobId, LineName, Version


class PolicyState(StrEnum):
    """Where a policy stands; ROLLOUT, DRAFT, REJECTED and WITHDRAWN ones never serve users.

    A ROLLOUT is a policy in the middle of its training, sampled from by its own job and then taken out again.
    """

    rollout = "rollout"
    draft = "draft"
    candidate = "candidate"
    canary = "canary"
    live = "live"
    retired = "retired"
    rejected = "rejected"
    withdrawn = "withdrawn"


_S = PolicyState
UNSERVED = frozenset({_S.rollout, _S.draft, _S.rejected, _S.withdrawn})
"""States that never answer users. Drafts and rejected policies answer operators, who measure them."""


class Move(BaseModel):
    """One step in a policy's life; `at` in Unix seconds."""

    model_config = ConfigDict(frozen=True)

    at: float
    state: PolicyState
    actor: str
    reason: str


class Trial(BaseModel):
    """A policy's time as canary: since when (Unix seconds), beside which live version, and by what rules."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    started_at: float
    over: Version
    rules: CanaryRules


class Imported(BaseModel):
    """Where an adapter that was not trained here comes from.

    `files` maps the name of each file it came in to its SHA-256 (hex), `base_name` is what it called its base.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    directory: str
    files: dict[str, str]
    base_name: str | None = None


class Policy(BaseModel):
    """The base with one adapter version (or bare).

    `adapter` is the directory's name below the adapters folder, `digest` that of its bytes; both None for the bare
    base. `gate` is the gate's report, `metrics` what training measured, `trial` its time as canary, over or not.
    An adapter that was `imported` has neither report nor metrics.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Version
    counter: int
    state: PolicyState
    parent: Version | None = None
    base_digest: str
    adapter: str | None = None
    digest: str | None = None
    rank: int | None = None
    job_id: JobId | None = None
    created_at: float
    metrics: dict[str, Any] = {}
    gate: dict[str, Any] | None = None
    trial: Trial | None = None
    imported: Imported | None = None
    history: tuple[Move, ...] = ()


@dataclass(frozen=True)
class RegistryView:
    """The registry at one epoch. `lives` are the versions that were live and may be gone back to, the live one last."""

    epoch: int
    line: LineName
    lives: tuple[Version, ...]
    policies: Mapping[Version, Policy]

    @property
    def live(self) -> Version:
        return self.lives[-1]

    @property
    def previous(self) -> Version | None:
        """The version a rollback would bring back."""
        return self.lives[-2] if len(self.lives) > 1 else None

    @property
    def canary(self) -> Policy | None:
        """The one that is being tried out beside the live version, if there is one."""
        return next((policy for policy in self.policies.values() if policy.state is PolicyState.canary), None)

    def policy(self, version: Version) -> Policy:
        """The policy of that version. UnknownPolicy when there is none."""
        if version not in self.policies:
            known = ", ".join(sorted(self.policies)) or "none"
            raise UnknownPolicy(f"there is no policy {version!r}; known: {known}")
        return self.policies[version]


def version_name(counter: int, digest: str) -> Version:
    """The version of the `counter`-th adapter with that digest (hex): `v0007-3f9a12c04b1e`."""
    return Version(f"v{counter:04d}-{digest[:12]}")


_PINNED = re.compile(r"(?:(?P<line>[^@]+)@)?(?P<version>v\d{4,}(?:-[0-9a-z]+)?)")


def public_id(line: LineName, version: Version) -> str:
    """The model id that pins a version: `burnish@v0007-3f9a12c04b1e`."""
    return f"{line}@{version}"


def resolve(view: RegistryView, model: str, *, operator: bool = False) -> Policy:
    """The policy that a public model id names.

    The line's name is whatever is live; `LINE@v0007`, `LINE@v0007-3f9a12c04b1e` and the bare version pin one.
    UnknownPolicy when nothing fits, when the policy was withdrawn, and for callers who are no operators also when it
    never serves users.
    """
    if model == view.line:
        return view.policy(view.live)
    match = _PINNED.fullmatch(model)
    if match and match["line"] in (None, view.line):
        wanted = match["version"]
        for policy in view.policies.values():
            short = "-" not in wanted and policy.state is not _S.rollout  # a job's rollouts share its counter
            named = policy.version == wanted or (short and policy.version.split("-")[0] == wanted)
            if named and _answers(policy.state, operator=operator):
                return policy
    raise UnknownPolicy(
        f"the model {model!r} does not exist; use {view.line!r} for the live version or see the list of models"
    )


def sided(view: RegistryView, session: str) -> Policy:
    """What answers a session that asks for the line: the live version, or the canary where this is on its side."""
    canary = view.canary
    if canary is None or canary.trial is None:
        return view.policy(view.live)
    return canary if on_canary_side(session, canary.version, canary.trial.rules.share) else view.policy(view.live)


def _answers(state: PolicyState, *, operator: bool) -> bool:
    # Requests that pin a withdrawn version would keep it in use, so that the engine could never let it go.
    return state not in UNSERVED or (operator and state is not _S.withdrawn)


def same_bytes(view: RegistryView, digest: str | None) -> Policy | None:
    """The policy whose adapter has that digest (hex)."""
    known = (each for each in view.policies.values() if digest is not None and each.digest == digest)
    return next(known, None)
