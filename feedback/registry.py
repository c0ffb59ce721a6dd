"""The policy registry in Redis: one compare-and-set on the epoch for every change, each one audited."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from feedback import moves
from feedback.canary import CanaryRules
from feedback.connection import Client, lua, translated
from feedback.errors import LeaseLost, StaleRegistry, UnknownPolicy
from feedback.ids import BASE_VERSION, LineName, Version, new_nonce
from feedback.job_rows import Claim
from feedback.keyspace import Keyspace
from feedback.moves import Change, Who
from feedback.policies import Move, Policy, PolicyState, RegistryView

_TRIES = 20
_RECEIPT_TTL_S = 600
"""Far longer than a call that is sent again can be under way."""


class AuditEntry(BaseModel):
    """One audited change of the registry; `at` in Unix seconds, `numbers` whatever the decision rested on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: float
    actor: str
    action: str
    version: Version
    reason: str
    numbers: dict[str, Any] = {}


@dataclass(frozen=True)
class Why:
    """Who moves a policy, why, and the numbers that the decision rests on, if it rests on any."""

    actor: str
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Write:
    change: Change
    audit: AuditEntry | None
    claim: Claim | None = None


class Registry:
    """The policies of one line. Each method is one transaction; LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client, line: LineName) -> None:
        self._client = client
        self._line = line
        self._keys = Keyspace(line)
        self._write = lua(client, "write_registry")
        self._reserve = lua(client, "reserve_counter")

    def ensure_base(self, base_digest: str) -> RegistryView:
        """Enters the bare base as the live policy of a new line.

        StaleRegistry when the line was begun on another base: adapters of one base mean nothing on another.
        """
        view = self.view()
        if BASE_VERSION in view.policies:
            known = view.policies[BASE_VERSION].base_digest
            if known != base_digest:
                raise StaleRegistry(
                    f"the line {self._line!r} was begun on base {known[:12]}, the model here is {base_digest[:12]}; "
                    "use another BURNISH_LINE_NAME or another BURNISH_HOME for another model"
                )
            return view
        now = time.time()
        step = Move(at=now, state=PolicyState.live, actor="start", reason="the bare base")
        base = Policy(
            version=BASE_VERSION,
            counter=0,
            state=PolicyState.live,
            base_digest=base_digest,
            created_at=now,
            history=(step,),
        )
        return self._change(lambda _: _Write(Change((base,), (BASE_VERSION,)), None))

    def epoch(self) -> int:
        """The number of changes so far: cheap to poll."""
        with translated():
            return int(self._client.hget(self._keys.registry, "epoch") or 0)

    def view(self) -> RegistryView:
        """The whole registry at one epoch."""
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.hgetall(self._keys.registry)
            pipe.hgetall(self._keys.policies)
            meta, rows = pipe.execute()
        known = {Version(version): Policy.model_validate_json(row) for version, row in rows.items()}
        lives = tuple(Version(v) for v in json.loads(meta.get("lives", "[]")))
        return RegistryView(int(meta.get("epoch", 0)), self._line, lives, known)

    def policy(self, version: Version) -> Policy:
        return self.view().policy(version)

    def reserve(self, claim: Claim) -> int:
        """The version counter of the claimed job, the same again for every attempt at it."""
        with translated():
            counter = int(
                self._reserve(
                    keys=[self._keys.job(claim.job_id), self._keys.counter],
                    args=[str(claim.token)],
                )
            )
        if counter == -2:
            raise _lost(claim)
        return counter

    def add_draft(self, claim: Claim, policy: Policy) -> RegistryView:
        """Enters a freshly trained policy, in place of the job's rollouts. Doing it again changes nothing."""

        def write(view: RegistryView) -> _Write | None:
            known = view.policies.get(policy.version)
            if known is not None and known.state is not PolicyState.rollout:
                return None
            who = Who(actor=f"job {claim.job_id}", reason="trained", at=policy.created_at)
            step = Move(at=who.at, state=PolicyState.draft, actor=who.actor, reason=who.reason)
            row = policy.model_copy(update={"state": PolicyState.draft, "history": (step,)})
            change = moves.end_rollouts(view, claim.job_id)
            return _Write(replace(change, policies=(row,)), _audit(who, "draft", policy.version), claim)

        return self._change(write)

    def enter_rollout(self, claim: Claim, policy: Policy, *, keep: int = 1) -> RegistryView:
        """Enters the policy in training as it is now, to be sampled from; the job's older ones beyond `keep` go.

        Entering the same version again changes nothing. Not audited: nobody is ever served by it.
        """

        def write(view: RegistryView) -> _Write | None:
            if policy.version in view.policies:
                return None
            return _Write(moves.enter_rollout(view, policy, keep=keep), None, claim)

        return self._change(write)

    def end_rollouts(self, claim: Claim) -> RegistryView:
        """Takes out whatever the job has entered to sample from."""

        def write(view: RegistryView) -> _Write | None:
            change = moves.end_rollouts(view, claim.job_id)
            return _Write(change, None, claim) if change.gone else None

        return self._change(write)

    def judge(
        self,
        claim: Claim,
        version: Version,
        state: PolicyState,
        *,
        gate: dict[str, Any],
        metrics: dict[str, Any],
    ) -> RegistryView:
        """Moves a draft to candidate or rejected with the gate's report. Saying the same again changes nothing."""

        def write(view: RegistryView) -> _Write | None:
            known = view.policy(version)
            if known.state is not PolicyState.draft and known.gate == _as_kept(known, gate):
                return None
            who = Who(actor="gate", reason=str(gate.get("verdict", state)), at=time.time())
            change = moves.judge(view, version, state, who, gate=gate, metrics=metrics)
            return _Write(change, _audit(who, str(state), version), claim)

        return self._change(write)

    def new_counter(self) -> int:
        """A version counter for an adapter that no job trains; one that comes to nothing is not given out again."""
        with translated():
            return int(self._client.incr(self._keys.counter))

    def enter_import(self, policy: Policy, why: Why) -> RegistryView:
        """Enters an adapter from outside as a candidate. Entering the same version again changes nothing.

        MoveRefused when another version has the same bytes.
        """

        def write(view: RegistryView) -> _Write | None:
            if policy.version in view.policies:
                return None
            who = Who(why.actor, why.reason, policy.created_at)
            change = moves.enter_import(view, policy, who)
            return _Write(change, _audit(who, "import", policy.version, why.numbers))

        return self._change(write)

    def promote(self, version: Version, why: Why, *, epoch: int) -> RegistryView:
        """Makes a candidate live if the registry is still at `epoch`; StaleRegistry otherwise."""
        view = self.view()
        if view.epoch != epoch:
            raise StaleRegistry(f"the registry is at epoch {view.epoch}, the decision was made at {epoch}; look again")
        who = Who(why.actor, why.reason, time.time())
        write = _Write(moves.promote(view, version, who), _audit(who, "promote", version, why.numbers))
        if self._try(view, write) == -1:
            raise StaleRegistry(f"the registry moved on from epoch {epoch} while {version} was promoted; look again")
        return self.view()

    def begin_canary(self, version: Version, why: Why, rules: CanaryRules) -> RegistryView:
        """Tries a candidate out beside the live version, by these rules."""

        def move(view: RegistryView, who: Who) -> Change:
            return moves.begin_canary(view, version, who, rules)

        return self._move("canary", move, why, version)

    def retire(self, version: Version, why: Why) -> RegistryView:
        """Puts a canary away that neither won nor lost."""
        return self._move("retire", lambda view, who: moves.retire(view, version, who), why, version)

    def rollback(self, why: Why) -> RegistryView:
        """Brings the former live version back and withdraws the present one.

        StaleRegistry when another version goes live meanwhile: it would be one that nobody asked to take back.
        """
        disliked: list[Version] = []

        def move(view: RegistryView, who: Who) -> Change:
            disliked.append(view.live)
            if view.live != disliked[0]:
                raise StaleRegistry(f"{view.live} went live while {disliked[0]} was rolled back; look again")
            return moves.rollback(view, who)

        return self._move("rollback", move, why)

    def withdraw(self, version: Version, why: Why) -> RegistryView:
        """Takes a policy back for good; the live one by rolling back."""
        return self._move("withdraw", lambda view, who: moves.withdraw(view, version, who), why, version)

    def audit(self, limit: int = 100) -> list[AuditEntry]:
        """The newest audited changes, newest first."""
        with translated():
            rows = self._client.xrevrange(self._keys.audit, count=limit)
        return [AuditEntry.model_validate_json(fields["entry"]) for _, fields in rows]

    def _move(
        self, action: str, move: Callable[[RegistryView, Who], Change], why: Why, version: Version | None = None
    ) -> RegistryView:
        def write(view: RegistryView) -> _Write:
            if not view.lives:
                raise UnknownPolicy("the registry is empty; start the gateway once so that it enters the base")
            who = Who(why.actor, why.reason, time.time())
            return _Write(move(view, who), _audit(who, action, version or view.live, why.numbers))

        return self._change(write)

    def _change(self, write: Callable[[RegistryView], _Write | None]) -> RegistryView:
        for _ in range(_TRIES):
            view = self.view()
            wanted = write(view)
            if wanted is None:
                return view
            if self._try(view, wanted) != -1:
                return self.view()
        raise StaleRegistry(f"the registry changed {_TRIES} times while it was being written; try again")

    def _try(self, view: RegistryView, write: _Write) -> int:
        claim = write.claim
        rows = [part for policy in write.change.policies for part in (policy.version, policy.model_dump_json())]
        keys = self._keys
        with translated():
            epoch = int(
                self._write(
                    keys=[
                        keys.policies,
                        keys.registry,
                        keys.audit,
                        keys.job(claim.job_id) if claim else keys.registry,
                        keys.receipt(new_nonce()),
                    ],
                    args=[
                        str(view.epoch),
                        str(claim.token) if claim else "",
                        json.dumps(write.change.lives),
                        write.audit.model_dump_json() if write.audit else "",
                        str(_RECEIPT_TTL_S),
                        str(len(write.change.gone)),
                        *write.change.gone,
                        *rows,
                    ],
                )
            )
        if claim is not None and epoch == -2:
            raise _lost(claim)
        return epoch


def _as_kept(policy: Policy, gate: dict[str, Any]) -> dict[str, Any] | None:
    """A gate's report as it reads once it was kept: JSON has no tuples and no enums."""
    row = policy.model_copy(update={"gate": gate}).model_dump_json()
    return Policy.model_validate_json(row).gate


def _audit(who: Who, action: str, version: Version, numbers: Mapping[str, Any] | None = None) -> AuditEntry:
    at, actor, reason = who.at, who.actor, who.reason
    return AuditEntry(at=at, actor=actor, action=action, version=version, reason=reason, numbers=dict(numbers or {}))


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"job {claim.job_id} is no longer held under token {claim.token}; nothing was written")
