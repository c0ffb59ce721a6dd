"""The moves between a policy's states. Pure: each takes a view of the registry and gives the next one's parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedback.canary import CanaryRules
from feedback.errors import MoveRefused
from feedback.ids import BASE_VERSION, JobId, Version
from feedback.policies import Move, Policy, PolicyState, RegistryView, Trial, same_bytes

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
