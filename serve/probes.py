"""Does the engine serve the very adapter that was trained? Judged by log-probs of the manifest's fixed tokens. Pure.

A load that answers 200 proves nothing: adapters whose module names do not fit are accepted and change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve.manifest import Probe

# Nats a token: below this an adapter is as good as none, and nothing could be verified by it.
_LEAST_EFFECT = 0.002


@dataclass(frozen=True)
class Scored:
    """The engine's log-probs (nats) for one probe, in the order of the probe's own."""

    base: Sequence[float]
    adapter: Sequence[float]


@dataclass(frozen=True)
class Verdict:
    """Mean distances per token in nats; `problem` says what is wrong, None when all agrees."""

    base_off: float
    adapter_off: float
    effect_trained: float
    effect_served: float
    problem: str | None


def judge_probes(probes: Sequence[Probe], scored: Sequence[Scored], tolerance_nats: float) -> Verdict:
    """Compares four sets of log-probs: trainer's and engine's, with the adapter and without.

    In this order: the base must agree (else nothing can be said about the adapter), the adapter must change at least
    half of what it changed in training, and it must agree.
    """
    base_off = _distance([p.base for p in probes], [s.base for s in scored])
    adapter_off = _distance([p.adapter for p in probes], [s.adapter for s in scored])
    trained = _distance([p.base for p in probes], [p.adapter for p in probes])
    served = _distance([s.base for s in scored], [s.adapter for s in scored])
    problem = None
    if base_off > tolerance_nats:
        problem = (
            f"the base's log-probs differ from the trainer's by {base_off:.3f} nats a token (allowed "
            f"{tolerance_nats:g}): the adapter was made for another base, or the engine computes differently"
        )
    elif served < max(trained / 2, _LEAST_EFFECT):
        problem = (
            f"the engine's answers hardly change with the adapter ({served:.4f} nats a token, in training "
            f"{trained:.4f}): its modules do not reach the model"
        )
    elif adapter_off > tolerance_nats:
        problem = (
            f"the adapter's log-probs differ from the trainer's by {adapter_off:.3f} nats a token (allowed "
            f"{tolerance_nats:g}): it is not the adapter that was trained"
        )
    return Verdict(base_off, adapter_off, trained, served, problem)


def _distance(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    pairs = [(a, b) for xs, ys in zip(one, other, strict=True) for a, b in zip(xs, ys, strict=True)]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)
