"""The gate: may a draft become a candidate, judged from measurements. Pure.

Harm checks compare samples of the draft with those of the live policy, and with the base's own so that rounds cannot
drift step by step; every one must pass. The held-out votes may stay inconclusive: few votes cannot prove a win.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from training.judging.statistics import Floats, Interval, bootstrap, clopper_pearson, sign_test
from training.settings import GateSection

ALPHA = 0.05


class Verdict(StrEnum):
    passed = "pass"
    failed = "fail"
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Measures:
    """What was measured on one policy's answers, one number per prompt, in the same order for every policy.

    tokens: answer length; nats: −log-prob of the answer under the base, summed; kl_nats: KL to the base, summed over
    its tokens; repeats: share of 4-grams that stood in the answer before; empty, cut: 1 where the answer says nothing
    or was cut off at the limit.
    """

    tokens: Sequence[float]
    nats: Sequence[float]
    kl_nats: Sequence[float]
    repeats: Sequence[float]
    empty: Sequence[float]
    cut: Sequence[float]


@dataclass(frozen=True)
class Votes:
    """Held-out votes: on how many prompts, and pairs, the draft agrees with them more than the live policy does.

    `n` prompts have more pairs won than lost or the other way round, `wins` of them more won; `pair_wins` of all
    `pairs` are won. Several votes on one prompt are no independent trials, so only prompts are tested.
    """

    n: int
    wins: int
    pairs: int
    pair_wins: int


@dataclass(frozen=True)
class Check:
    """One question with its answer. `least` and `most` bound the value; None where it is unbounded."""

    name: str
    title: str
    value: float
    low: float
    high: float
    least: float | None
    most: float | None
    verdict: Verdict
    words: str


@dataclass(frozen=True)
class Report:
    """`verdict` of the whole gate, its checks, and a sentence for the operator."""

    verdict: Verdict
    summary: str
    checks: tuple[Check, ...]
    n_prompts: int

    def as_json(self) -> dict[str, Any]:
        """Exactly what reading it back from JSON gives: lists for tuples, plain strings for verdicts."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @property
    def undecided_harm(self) -> bool:
        """Whether more samples could still clear every harm check."""
        harm = [check.verdict for check in self.checks if check.name != "votes"]
        return Verdict.inconclusive in harm and Verdict.failed not in harm


def judge(draft: Measures, live: Measures, base: Measures, votes: Votes, bounds: GateSection) -> Report:
    """Ask every question and add the answers up."""
    checks = (
        *_compare(draft, live, against_live(bounds)),
        *_compare(draft, base, against_base(bounds)),
        _bounded("kl", "distance from the base (KL, nats a token)", _kl(draft), most=bounds.kl),
        judge_votes(votes),
    )
    verdict = _overall(checks)
    return Report(verdict, _summary(verdict, checks), checks, len(draft.tokens))


@dataclass(frozen=True)
class _Bounds:
    """How far a draft may be from another policy; `suffix` ends the names of the checks, `other` names the policy."""

    suffix: str
    other: str
    loss_fall: float
    loss_rise: float
    repeats_rise: float
    empty_rise: float
    cut_rise: float
    length_low: float
    length_high: float


def against_live(bounds: GateSection) -> _Bounds:
    return _Bounds(
        "",
        "the live policy",
        loss_fall=bounds.loss_fall_live,
        loss_rise=bounds.loss_rise_live,
        repeats_rise=bounds.repeats_rise,
        empty_rise=bounds.empty_rise,
        cut_rise=bounds.cut_rise,
        length_low=bounds.length_low,
        length_high=bounds.length_high,
    )


def against_base(bounds: GateSection) -> _Bounds:
    """What stops rounds that each keep within bounds of the one before."""
    return _Bounds(
        "_base",
        "the base",
        loss_fall=bounds.loss_fall_base,
        loss_rise=bounds.loss_rise_base,
        repeats_rise=bounds.repeats_rise_base,
        empty_rise=bounds.empty_rise_base,
        cut_rise=bounds.cut_rise_base,
        length_low=bounds.length_low_base,
        length_high=bounds.length_high_base,
    )


def _compare(draft: Measures, other: Measures, bounds: _Bounds) -> tuple[Check, ...]:
    """The harm checks of a draft against one other policy's answers to the same prompts."""
    name, named = bounds.suffix, bounds.other
    return (
        _bounded(
            f"naturalness{name}",
            f"the base's loss on the draft's answers, above that on {named}'s (nats a token)",
            _loss_change(draft, other),
            least=-bounds.loss_fall,
            most=bounds.loss_rise,
        ),
        _bounded(
            f"repeats{name}",
            f"more repeated 4-grams than {named} (share)",
            bootstrap([draft.repeats, other.repeats], _mean_difference),
            most=bounds.repeats_rise,
        ),
        _bounded(
            f"empty{name}",
            f"more empty answers than {named} (share)",
            _empty_change(draft, other),
            most=bounds.empty_rise,
        ),
        _bounded(
            f"cut{name}",
            f"more cut-off answers than {named} (share)",
            bootstrap([draft.cut, other.cut], _mean_difference),
            most=bounds.cut_rise,
        ),
        _bounded(
            f"length{name}",
            f"mean answer length, as a ratio to {named}'s",
            bootstrap([draft.tokens, other.tokens], _ratio_of_means),
            least=bounds.length_low,
            most=bounds.length_high,
        ),
    )


def judge_votes(votes: Votes) -> Check:
    """Does the draft agree with held-out votes on more prompts than the live policy? An exact sign test, both ways."""
    share = clopper_pearson(votes.wins, votes.n, confidence=1 - 2 * ALPHA)
    better, worse = sign_test(votes.wins, votes.n), sign_test(votes.n - votes.wins, votes.n)
    if votes.n and better <= ALPHA:
        verdict, said = Verdict.passed, f"better than the live policy (p = {better:.3f})"
    elif votes.n and worse <= ALPHA:
        verdict, said = Verdict.failed, f"worse than the live policy (p = {worse:.3f})"
    else:
        verdict, said = Verdict.inconclusive, "too few votes to tell"
    words = (
        f"agrees more with the votes on {votes.wins} of {votes.n} held-out prompts "
        f"({votes.pair_wins} of {votes.pairs} pairs): {said}"
    )
    title = "held-out prompts on which the draft agrees with the votes more than the live policy (share)"
    return Check("votes", title, share.value, share.low, share.high, 0.5, None, verdict, words)


def _loss_change(draft: Measures, other: Measures) -> Interval:
    """Bounded on both sides: gibberish costs the base more nats a token than text does, a loop costs it fewer."""
    return bootstrap([draft.nats, draft.tokens, other.nats, other.tokens], _difference_per_token)


def _empty_change(draft: Measures, other: Measures) -> Interval:
    """The draft's share of empty answers with its exact interval, less the other's share."""
    own = clopper_pearson(int(sum(draft.empty)), len(draft.empty), confidence=1 - 2 * ALPHA)
    former = float(np.mean(other.empty))
    return Interval(own.value - former, own.low - former, own.high - former)


def _kl(draft: Measures) -> Interval:
    return bootstrap([draft.kl_nats, draft.tokens], _ratio_of_means)


def _bounded(name: str, title: str, found: Interval, *, least: float | None = None, most: float | None = None) -> Check:
    """Pass when the whole interval lies within the bounds, fail when the value does not."""
    too_low = least is not None and found.value < least
    too_high = most is not None and found.value > most
    if too_low or too_high:
        verdict = Verdict.failed
        bound = least if too_low else most
        words = f"{found.value:+.3f} is {'below' if too_low else 'above'} the bound {bound:+.3f}"
    elif (least is None or found.low >= least) and (most is None or found.high <= most):
        verdict, words = Verdict.passed, f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] is within bounds"
    else:
        verdict = Verdict.inconclusive
        words = f"{found.value:+.3f} is within bounds, its interval [{found.low:+.3f}, {found.high:+.3f}] is not"
    return Check(name, title, found.value, found.low, found.high, least, most, verdict, words)


def _overall(checks: Sequence[Check]) -> Verdict:
    harm = [check.verdict for check in checks if check.name != "votes"]
    votes = next(check.verdict for check in checks if check.name == "votes")
    if Verdict.failed in (*harm, votes) or Verdict.inconclusive in harm:
        return Verdict.failed
    return votes


def _summary(verdict: Verdict, checks: Sequence[Check]) -> str:
    if verdict is Verdict.failed:
        broken = [c for c in checks if c.verdict is Verdict.failed]
        broken = broken or [c for c in checks if c.verdict is Verdict.inconclusive and c.name != "votes"]
        return "refused: " + "; ".join(f"{c.title}: {c.words}" for c in broken)
    votes = next(check for check in checks if check.name == "votes")
    return f"no harm found; {votes.words}"


def _difference_per_token(nats: Floats, tokens: Floats, other_nats: Floats, other_tokens: Floats) -> Floats:
    return _ratio_of_means(nats, tokens) - _ratio_of_means(other_nats, other_tokens)


def _ratio_of_means(above: Floats, below: Floats) -> Floats:
    return np.asarray(above.sum(axis=1) / np.maximum(below.sum(axis=1), 1e-9))


def _mean_difference(one: Floats, other: Floats) -> Floats:
    return np.asarray((one - other).mean(axis=1))
