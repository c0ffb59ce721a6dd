"""What the gateway counts, for Prometheus. Labels are versions, outcomes and kinds: never tenants, people or texts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from feedback.ids import Version
from serve.answering.answer import Answer

_TTFT_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30)


class Metrics:
    """One registry per app, so that two apps in one process (tests) do not meet."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("burnish_requests", "Completion requests", ["kind", "version", "outcome"], registry=r)
        self.tokens = Counter("burnish_tokens", "Tokens read and written", ["version", "side"], registry=r)
        self.ttft = Histogram(
            "burnish_first_token_seconds", "Streamed: request to first token", ["version"], buckets=_TTFT_S, registry=r
        )
        self.rescues = Counter(
            "burnish_rescued_answers", "Answers given to another replica: a first went away", ["how"], registry=r
        )
        self.in_flight = Gauge("burnish_in_flight", "Requests running", ["version"], registry=r)
        self.live = Gauge("burnish_live_version", "1 for the live version", ["version"], registry=r)
        self.loads = Counter("burnish_adapter_loads", "Adapters brought up", ["outcome"], registry=r)
        self.moves = Counter("burnish_policy_moves", "Promotions, withdrawals, rollbacks", ["move"], registry=r)
        self.turns_dropped = Counter("burnish_turns_dropped", "Turns lost: the queue was full", registry=r)
        self.turns_queued = Gauge("burnish_turns_queued", "Turns waiting for the ledger", registry=r)
        self.refused = Counter("burnish_refused", "Completion requests not admitted", ["why"], registry=r)
        self.limits_alone = Gauge(
            "burnish_limits_alone", "1 while keys' limits are kept by this gateway alone: Redis is away", registry=r
        )
        self.votes = Counter("burnish_votes", "Statements accepted", ["kind", "source"], registry=r)
        self.engine_up = Gauge("burnish_engine_up", "1 while it answers", ["replica"], registry=r)
        self.ledger_up = Gauge("burnish_ledger_up", "1 while Redis answers", registry=r)

    def answered(self, answer: Answer, outcome: str) -> None:
        version = answer.stamp.version
        self.requests.labels(answer.asked.kind, version, outcome).inc()
        self.tokens.labels(version, "prompt").inc(answer.prompt_tokens)
        self.tokens.labels(version, "completion").inc(answer.completion_tokens)
        if answer.asked.stream and answer.first_token_ms is not None:
            self.ttft.labels(version).observe(answer.first_token_ms / 1000)

    def set_live(self, version: Version) -> None:
        self.live.clear()
        self.live.labels(version).set(1)

    def page(self) -> bytes:
        return generate_latest(self.registry)
