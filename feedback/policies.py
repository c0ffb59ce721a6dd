"""Policies, their states and the moves between them. Pure: each move takes a view and gives the next one's parts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from feedback.canary import CanaryRules, on_canary_side
from feedback.errors import MoveRefused, UnknownPolicy
from feedback.ids import BASE_VERSION, JobId, LineName, Version


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
MOVES: Mapping[PolicyState, frozenset[PolicyState]] = {
    _S.rollout: frozenset(),
    _S.draft: frozenset({_S.candidate, _S.rejected}),
    _S.candidate: frozenset({_S.canary, _S.live, _S.withdrawn}),
    _S.canary: frozenset({_S.live, _S.withdrawn, _S.retired}),
    _S.live: frozenset({_S.retired, _S.withdrawn}),
    _S.retired: frozenset({_S.live}),
    _S.rejected: frozenset(),
    _S.withdrawn: frozenset(),
}
"""The allowed moves. RETIRED → LIVE happens by rollback only."""

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


@dataclass(frozen=True)
class Change:
    """What a move writes: the policies that changed and the new list of lives; `gone` are taken out altogether."""

    policies: tuple[Policy, ...]
    lives: tuple[Version, ...]
    gone: tuple[Version, ...] = ()


@dataclass(frozen=True)
class Who:
    """Who moves a policy, when (Unix seconds) and why."""

    actor: str
    reason: str
    at: float


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


def _moved(
    policy: Policy,
    to: PolicyState,
    who: Who,
    *,
    by_rollback: bool = False,
    **changes: Any,
) -> Policy:
    if to not in MOVES[policy.state] or (policy.state is _S.retired and not by_rollback):
        allowed = ", ".join(sorted(MOVES[policy.state])) or "nothing"
        if policy.state is _S.retired:
            allowed = "live, by rollback only"
        raise MoveRefused(f"{policy.version} is {policy.state} and cannot become {to}; it can become {allowed}")
    step = Move(at=who.at, state=to, actor=who.actor, reason=who.reason)
    return policy.model_copy(update={"state": to, "history": (*policy.history, step), **changes})


def enter_rollout(view: RegistryView, policy: Policy, *, keep: int) -> Change:
    """A policy in training is there to be sampled from; of the job's older ones the newest `keep` stay."""
    older = sorted(_rollouts(view, policy.job_id), key=lambda each: each.created_at, reverse=True)
    row = policy.model_copy(update={"state": _S.rollout})
    return Change((row,), view.lives, tuple(each.version for each in older[keep:]))


def end_rollouts(view: RegistryView, job_id: JobId) -> Change:
    """All that a job sampled from is gone."""
    return Change((), view.lives, tuple(each.version for each in _rollouts(view, job_id)))


def _rollouts(view: RegistryView, job_id: JobId | None) -> list[Policy]:
    return [each for each in view.policies.values() if each.state is _S.rollout and each.job_id == job_id]


def enter_import(view: RegistryView, policy: Policy, who: Who) -> Change:
    """An adapter from outside enters as a candidate. MoveRefused when the same bytes are known by another version."""
    same = same_bytes(view, policy.digest)
    if same is not None:
        raise MoveRefused(f"{policy.version} was not entered: {same.version} ({same.state}) has the same bytes")
    step = Move(at=who.at, state=_S.candidate, actor=who.actor, reason=who.reason)
    row = policy.model_copy(update={"state": _S.candidate, "history": (step,)})
    return Change((row,), view.lives)


def same_bytes(view: RegistryView, digest: str | None) -> Policy | None:
    """The policy whose adapter has that digest (hex)."""
    known = (each for each in view.policies.values() if digest is not None and each.digest == digest)
    return next(known, None)


def judge(
    view: RegistryView,
    version: Version,
    to: PolicyState,
    who: Who,
    *,
    gate: dict[str, Any],
    metrics: dict[str, Any],
) -> Change:
    """A draft becomes a candidate or is rejected, with the gate's report."""
    judged = _moved(view.policy(version), to, who, gate=gate, metrics=metrics)
    return Change((judged,), view.lives)


def promote(view: RegistryView, version: Version, who: Who) -> Change:
    """A candidate (or canary) becomes live and the live one is retired."""
    risen = _moved(view.policy(version), _S.live, who)
    fallen = _moved(view.policy(view.live), _S.retired, who)
    return Change((risen, fallen), (*view.lives, version))


def begin_canary(view: RegistryView, version: Version, who: Who, rules: CanaryRules) -> Change:
    """A candidate is tried out beside the live version. MoveRefused while another one is."""
    if view.canary is not None and view.canary.version != version:
        raise MoveRefused(f"{view.canary.version} is the canary; promote, withdraw or retire it before {version}")
    trial = Trial(started_at=who.at, over=view.live, rules=rules)
    return Change((_moved(view.policy(version), _S.canary, who, trial=trial),), view.lives)


def retire(view: RegistryView, version: Version, who: Who) -> Change:
    """A canary that neither won nor lost is put away."""
    if version == view.live:
        raise MoveRefused(f"{version} is live; promote another version, or roll back")
    return Change((_moved(view.policy(version), _S.retired, who),), view.lives)


def rollback(view: RegistryView, who: Who) -> Change:
    """The former live version is live again and the present one is withdrawn. MoveRefused when there is no former."""
    if view.previous is None:
        raise MoveRefused(f"{view.live} is live and nothing was live before it; there is nothing to roll back to")
    fallen = _moved(view.policy(view.live), _S.withdrawn, who)
    risen = _moved(view.policy(view.previous), _S.live, who, by_rollback=True)
    return Change((fallen, risen), view.lives[:-1])


def withdraw(view: RegistryView, version: Version, who: Who) -> Change:
    """Takes a policy back for good; taking back the live one rolls back. The bare base cannot be withdrawn."""
    if version == BASE_VERSION:
        raise MoveRefused(f"{BASE_VERSION} is the bare base, which is always there; promote another version instead")
    if version == view.live:
        return rollback(view, who)
    return Change(
        (_moved(view.policy(version), _S.withdrawn, who),),
        tuple(v for v in view.lives if v != version),
    )
