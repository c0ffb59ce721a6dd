"""Counts what becomes of the requests that chance gave to the live version or to the canary. Memory only."""

from dataclasses import dataclass, field

from feedback.ids import Version
from feedback.refusals import is_refusal
from feedback.traffic import Traffic, latency_bucket
from serve.answering.answer import Answer


@dataclass
class TrafficMeter:
    """One gateway's counts by version, since `canary` began."""

    canary: Version | None = None
    counted: dict[Version, Traffic] = field(default_factory=dict)

    def follow(self, canary: Version | None) -> None:
        """Begins anew where another canary is being tried out."""
        if canary != self.canary:
            self.canary = canary
            self.counted = {}

    def count(self, answer: Answer) -> None:
        """One answer that came to its end, or failed for no reason of its caller's."""
        version = answer.stamp.version
        self.counted[version] = _one_more(self.counted.get(version, Traffic()), answer)


def _one_more(before: Traffic, answer: Answer) -> Traffic:
    texts, failed = answer.texts, answer.failed
    empty = not failed and not answer.calls_tools and not any(text.strip() for text in texts)
    first_tokens = dict(before.first_tokens)
    if answer.asked.stream and answer.first_token_ms is not None:
        bucket = latency_bucket(answer.first_token_ms / 1000)
        first_tokens[bucket] = first_tokens.get(bucket, 0) + 1
    return before.model_copy(
        update={
            "requests": before.requests + 1,
            "errors": before.errors + failed,
            "empty": before.empty + empty,
            "refusals": before.refusals + (not failed and any(is_refusal(text) for text in texts)),
            "first_tokens": first_tokens,
        }
    )
