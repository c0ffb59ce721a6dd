"""Carries out what the votes and the tripwires say about the canary: looks every second, decides by `feedback.canary`.

Of several gateways one does it, all of them bring what they counted.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Literal

from feedback.canary import CanaryRules, Decision
from feedback.errors import FeedbackError
from feedback.lease import Lease
from feedback.policies import Policy, RegistryView
from feedback.registry import Why
from serve.errors import ApiError
from serve.ledger_watch import LedgerWatch
from serve.policies.promotion import Promotion
from serve.policies.traffic_meter import TrafficMeter
from serve.policies.trials import Trials

log = logging.getLogger(__name__)
ACTOR = "canary"
CanaryMove = Literal["promote", "withdraw", "retire"]
_LOOK_S = 1.0
_RETRY_S = 30.0


@dataclass
class Judge:
    """The loop. `gateway` names this process among the gateways."""

    gateway: str
    watch: LedgerWatch
    trials: Trials
    meter: TrafficMeter
    lease: Lease
    promotion: Promotion
    _not_before: float = 0.0

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (FeedbackError, ApiError) as error:
                log.warning("the canary could not be judged, trying again: %s", error)
                self._not_before = time.monotonic() + _RETRY_S
            except Exception:  # Without the loop a canary would go on for ever, whatever it does.
                log.exception("judging the canary met something unforeseen, trying again")
                self._not_before = time.monotonic() + _RETRY_S
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """One look: brings what was counted, and decides where it is this gateway's turn."""
        view = self.watch.view
        canary = view.canary if view is not None else None
        self.meter.follow(canary.version if canary else None)
        if view is None or canary is None or canary.trial is None:
            return
        if self.watch.problem is not None:
            return
        counted = dict(self.meter.counted)
        await asyncio.to_thread(self.trials.traffic.put, canary.version, self.gateway, counted)
        if time.monotonic() >= self._not_before and await asyncio.to_thread(self.lease.held):
            await self._decide(view, canary)

    async def _decide(self, view: RegistryView, canary: Policy) -> None:
        assert canary.trial is not None, canary.version
        if canary.trial.over != view.live:
            reason = f"it was compared with {canary.trial.over}, but {view.live} is live now"
            await self.promotion.retire(canary.version, Why(ACTOR, reason))
            return
        decision = await asyncio.to_thread(self.trials.decision, canary)
        move = move_for(decision, canary.trial.rules)
        if move is None:
            return
        why = Why(ACTOR, decision.reason, decision.numbers)
        if move == "promote":
            await self.promotion.promote(canary.version, why, over=canary.trial.over)
        elif move == "withdraw":
            await self.promotion.withdraw(canary.version, why)
        else:
            await self.promotion.retire(canary.version, why)
        log.info("canary %s: %s, %s", canary.version, move, decision.reason)


def move_for(decision: Decision, rules: CanaryRules) -> CanaryMove | None:
    """What a decision asks for; None while the canary goes on. Pure."""
    match decision.kind:
        case "promote" | "withdraw":
            return decision.kind
        case "inconclusive" if rules.when_inconclusive != "hold":
            return rules.when_inconclusive
    return None
