"""What the versions on trial came to, as it stands in the ledger."""

import time
from dataclasses import dataclass

from feedback.canary import Decision, decide
from feedback.duels import DuelRows, tally
from feedback.policies import Policy
from feedback.traffic import Traffic
from feedback.traffic_rows import TrafficRows


@dataclass(frozen=True)
class Trials:
    """Where votes and traffic are written down."""

    duels: DuelRows
    traffic: TrafficRows

    def decision(self, canary: Policy) -> Decision:
        """What its votes and its traffic come to now. LedgerUnavailable when Redis is away."""
        assert canary.trial is not None, canary.version
        counted = self.traffic.of(canary.version)
        mine, live = (counted.get(version, Traffic()) for version in (canary.version, canary.trial.over))
        age_s = max(0.0, time.time() - canary.trial.started_at)
        return decide(canary.trial.rules, tally(self.duels.votes(canary.version)), mine, live, age_s)
