"""Moving policies: try out, promote, retire, withdraw, roll back. Engines are asked first, the registry changes last.

Nothing before the registry's compare-and-set touches traffic, and the new view is in force here when a call returns.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from feedback.canary import CanaryRules
from feedback.errors import StaleRegistry
from feedback.ids import Version
from feedback.moves import MOVES
from feedback.policies import PolicyState, RegistryView
from feedback.registry import Registry, Why
from serve.adapters.adapter_files import AdapterRefused
from serve.errors import Conflict
from serve.ledger_watch import LedgerWatch
from serve.metrics import Metrics
from serve.policies.trials import Trials
from serve.replicas.fleet import Fleet

_TRIES = 5


@dataclass(frozen=True)
class Promotion:
    registry: Registry
    watch: LedgerWatch
    fleet: Fleet
    metrics: Metrics
    trials: Trials

    async def promote(self, version: Version, why: Why, *, over: Version | None = None) -> RegistryView:
        """Verifies a candidate on every replica, then makes it live; in the place of `over` alone, where that is named.

        Conflict when its state does not allow it, another version than `over` is live, or a replica does not serve
        what was trained; StaleRegistry when another version went live meanwhile, EngineUnavailable when there is no
        replica to verify it on.
        """
        # Held until the new view is in force: by the old one the swap may not want it, and would take it down.
        with self.fleet.held(version):
            view = await asyncio.to_thread(self.registry.view)
            if over not in (None, view.live):
                raise Conflict(
                    f"{version} was to be promoted over {over}, but {view.live} is live now", code="move_refused"
                )
            await self._verify(view, version, PolicyState.live)
            return await self._make_live(view, version, await self._with_numbers(version, why))

    async def _make_live(self, view: RegistryView, version: Version, why: Why) -> RegistryView:
        def compare_and_set() -> RegistryView:
            return self.registry.promote(version, why, epoch=view.epoch)

        for _ in range(_TRIES - 1):
            try:
                return await self._move("promote", compare_and_set)
            except StaleRegistry:
                # Something else was entered meanwhile, a draft say: what was decided stands while these two do.
                seen, view = view, await asyncio.to_thread(self.registry.view)
                if view.live != seen.live or view.policy(version).state is not seen.policy(version).state:
                    raise
        return await self._move("promote", compare_and_set)

    async def _verify(self, view: RegistryView, version: Version, to: PolicyState) -> None:
        policy = view.policy(version)
        if to not in MOVES[policy.state] or policy.state is PolicyState.retired:
            able = "a candidate or a canary" if to is PolicyState.live else "a candidate"
            raise Conflict(f"{version} is {policy.state}; only {able} can become {to}", code="move_refused")
        try:
            await self.fleet.ready(policy)
        except AdapterRefused as error:
            raise Conflict(f"{version} does not become {to}: {error}", code="adapter_refused") from error

    async def begin_canary(self, version: Version, why: Why, rules: CanaryRules) -> RegistryView:
        """Verifies a candidate on every replica, then tries it out beside the live version. Conflict as `promote`."""
        with self.fleet.held(version):
            view = await asyncio.to_thread(self.registry.view)
            await self._verify(view, version, PolicyState.canary)
            return await self._move("canary", lambda: self.registry.begin_canary(version, why, rules))

    async def retire(self, version: Version, why: Why) -> RegistryView:
        """Puts a canary away that neither won nor lost."""
        why = await self._with_numbers(version, why)
        return await self._move("retire", lambda: self.registry.retire(version, why))

    async def rollback(self, why: Why) -> RegistryView:
        """The former version is live again (it has stayed loaded) and the present one is withdrawn."""
        return await self._move("rollback", lambda: self.registry.rollback(why))

    async def withdraw(self, version: Version, why: Why) -> RegistryView:
        """Takes a version back for good; the live one by rolling back."""
        why = await self._with_numbers(version, why)
        return await self._move("withdraw", lambda: self.registry.withdraw(version, why))

    async def _with_numbers(self, version: Version, why: Why) -> Why:
        """With what its trial has come to, where it is on trial: however that ends, the audit trail tells it."""
        if why.numbers:
            return why
        view = await asyncio.to_thread(self.registry.view)
        if view.canary is None or view.canary.version != version:
            return why
        decision = await asyncio.to_thread(self.trials.decision, view.canary)
        return replace(why, numbers=decision.numbers)

    async def _move(self, name: str, move: Callable[[], RegistryView]) -> RegistryView:
        view = await asyncio.to_thread(move)
        self.watch.accept(view)
        self.metrics.moves.labels(name).inc()
        return view
