"""Does the engine serve the very adapter that was trained? Judged by log-probs of the manifest's fixed tokens. Pure.

A load that answers 200 proves nothing: adapters whose module names do not fit are accepted and change nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.adapters.manifest import Probe

# Nats a token: below this an adapter is as good as none, and nothing could be verified by it.
_LEAST_EFFECT = 0.002

Rows = Sequence[Sequence[float]]
"""Log-probs (nats), a row for each probe: of all its tokens but the first."""


@dataclass(frozen=True)
class Scored:
    """What the engine gave for the probes, without the adapter and with it."""

    base: Rows
    adapter: Rows


@dataclass(frozen=True)
class Verdict:
    """Mean distances per token in nats; `problem` says what is wrong, None when all agrees."""

    base_off: float
    adapter_off: float
    effect_trained: float
    effect_served: float
    problem: str | None


def judge_probes(
    probes: Sequence[Probe], scored: Scored, tolerance_nats: float, *, may_be_faint: bool = False
) -> Verdict:
    """Compares four sets of log-probs: the manifest's and the engine's, with the adapter and without.

    In this order: the base must agree (else nothing can be said about the adapter), the adapter must change at least
    half of what it changed in training, and it must agree. `may_be_faint`: one that changed next to nothing in
    training, as it does in its first steps, need not change more.
    """
    base_trained, adapter_trained = [p.base for p in probes], [p.adapter for p in probes]
    base_served, adapter_served = (
        [row[probe.start - 1 :] for row, probe in zip(rows, probes, strict=True)]
        for rows in (scored.base, scored.adapter)
    )
    base_off = _distance(base_trained, base_served)
    adapter_off = _distance(adapter_trained, adapter_served)
    trained = _distance(base_trained, adapter_trained)
    served = _distance(base_served, adapter_served)
    least = 0.0 if may_be_faint and trained < _LEAST_EFFECT else max(trained / 2, _LEAST_EFFECT)
    problem = None
    if base_off > tolerance_nats:
        problem = (
            f"the base's log-probs differ from the manifest's by {base_off:.3f} nats a token (allowed "
            f"{tolerance_nats:g}): the adapter was made for another base, or the engine computes differently"
        )
    elif served < least:
        problem = (
            f"the engine's answers hardly change with the adapter ({served:.4f} nats a token, in the "
            f"manifest {trained:.4f}): its modules do not reach the model"
        )
    elif adapter_off > tolerance_nats:
        problem = (
            f"the adapter's log-probs differ from the manifest's by {adapter_off:.3f} nats a token (allowed "
            f"{tolerance_nats:g}): it is not the adapter that the manifest was written for"
        )
    return Verdict(base_off, adapter_off, trained, served, problem)


def unlike_peers(rows: Rows, peers: Mapping[str, Rows], tolerance_nats: float) -> str | None:
    """What is wrong where a replica scores an adapter's probes otherwise than its peers do; None when all agree."""
    for name, theirs in peers.items():
        off = _distance(rows, theirs)
        if off > tolerance_nats:
            return (
                f"its log-probs differ from those on {name} by {off:.3f} nats a token (allowed {tolerance_nats:g}): "
                "the replicas would answer differently under one name"
            )
    return None


def too_faint(probes: Sequence[Probe]) -> str | None:
    """What is wrong where an adapter is to be known by numbers that it hardly changes; None when it changes enough.

    Twice as much as a later load must show, which measures the same with other rounding.
    """
    effect = _distance([p.base for p in probes], [p.adapter for p in probes])
    if effect >= 2 * _LEAST_EFFECT:
        return None
    return (
        f"the engine's answers hardly change with it ({effect:.4f} nats a token): its modules do not reach the model, "
        "or it has learned nothing"
    )


def _distance(one: Rows, other: Rows) -> float:
    pairs = [(a, b) for xs, ys in zip(one, other, strict=True) for a, b in zip(xs, ys, strict=True)]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)
