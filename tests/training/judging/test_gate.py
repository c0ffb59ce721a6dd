"""The gate on tables: what must be refused is, what is good passes, few votes stay inconclusive."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feedback.connection import connect
from feedback.ids import LineName
from feedback.jobs import JobRequest, JobStore
from feedback.policies import Policy, PolicyState, version_name
from feedback.registry import Registry
from training.judging.evaluate import repeated_share
from training.judging.gate import Measures, Report, Verdict, Votes, against_base, against_live, judge, judge_votes
from training.settings import GateSection

BOUNDS = GateSection()
FEW_VOTES = Votes(12, 8, pairs=19, pair_wins=11)
MANY_VOTES = Votes(20, 16, pairs=20, pair_wins=16)
N = 96


def make_measures(
    *, loss: float = 1.2, spread: float = 0.25, tokens: float = 60, seed: int = 0, **rows: Any
) -> Measures:
    """N answers of ordinary text: `loss` nats a token on average under the base, of about `tokens` tokens."""
    chance = np.random.default_rng(seed)
    lengths = np.maximum(5, chance.normal(tokens, tokens / 6, N)).round()
    nats = lengths * chance.normal(loss, spread, N)
    made = Measures(
        tokens=lengths.tolist(),
        nats=nats.tolist(),
        kl_nats=(lengths * 0.05).tolist(),
        repeats=chance.uniform(0, 0.04, N).tolist(),
        empty=[0.0] * N,
        cut=[float(i % 4 == 0) for i in range(N)],
    )
    return replace(made, **rows)


BASE = make_measures()


def ask(draft: Measures, *, live: Measures = BASE, base: Measures = BASE, votes: Votes = MANY_VOTES) -> Report:
    return judge(draft, live, base, votes, BOUNDS)


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.verdict is Verdict.failed}


def unmet(report: Report) -> set[str]:
    """The harm checks that do not pass."""
    return {check.name for check in report.checks if check.verdict is not Verdict.passed and check.name != "votes"}


def some(share: float, value: float = 1.0, rest: Sequence[float] | None = None) -> list[float]:
    """`value` in a share of the answers, `rest` (0 by default) in the others."""
    return [value if i < share * N else (rest[i] if rest else 0.0) for i in range(N)]


def test_a_good_draft_passes() -> None:
    report = ask(make_measures(loss=1.24, seed=1))
    assert report.verdict is Verdict.passed
    assert failed(report) == set()


def test_a_draft_that_loops_is_refused_though_its_text_is_likely() -> None:
    looping = make_measures(loss=0.6, seed=2, repeats=some(0.5, 0.9))
    assert {"naturalness", "repeats"} <= failed(ask(looping))
    assert ask(looping).verdict is Verdict.failed


def test_gibberish_is_refused() -> None:
    report = ask(make_measures(loss=2.4, seed=3))
    assert {"naturalness", "naturalness_base"} <= failed(report)
    assert "refused" in report.summary


def test_gibberish_in_a_few_answers_is_refused() -> None:
    draft = make_measures(loss=1.22, seed=4)
    spoilt = [nats * 3.5 if i % 10 == 0 else nats for i, nats in enumerate(draft.nats)]
    assert ask(replace(draft, nats=spoilt)).verdict is Verdict.failed


def test_empty_answers_are_refused() -> None:
    assert "empty" in failed(ask(make_measures(seed=5, empty=some(0.15))))


def test_answers_that_no_longer_end_are_refused() -> None:
    report = ask(make_measures(seed=6, tokens=160, cut=some(0.9)))
    assert "cut" in failed(report)
    assert "length" in failed(report)


def test_answers_that_hardly_say_anything_are_refused() -> None:
    assert "length" in failed(ask(make_measures(seed=7, tokens=6)))


def test_a_draft_far_from_the_base_is_refused() -> None:
    draft = make_measures(seed=8)
    assert "kl" in failed(ask(replace(draft, kl_nats=[n * 1.5 for n in draft.tokens])))


@pytest.mark.parametrize(
    ("live", "draft", "passes"), [(1.212, 1.225, True), (1.212, 1.314, True), (1.314, 1.47, False)]
)
def test_natural_text_passes_and_gibberish_does_not_even_after_a_round_of_drift(
    live: float, draft: float, passes: bool
) -> None:
    """The measured losses (nats a token) of a draft that writes well, of one that still does, and of gibberish."""
    base, former = make_measures(loss=1.212), make_measures(loss=live)
    report = ask(make_measures(loss=draft), live=former, base=base)
    assert (unmet(report) == set()) is passes
    assert (report.verdict is Verdict.passed) is passes


Step = Callable[[int], dict[str, Any]]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("naturalness", lambda n: {"loss": 1.2 + 0.08 * n}),
        ("repeats", lambda n: {"repeats": [0.02 + 0.05 * n] * N}),
        ("empty", lambda n: {"empty": some(0.01 * n)}),
        ("cut", lambda n: {"cut": some(0.25 + 0.1 * n)}),
        ("length", lambda n: {"tokens": 60 * 1.5**n}),
        ("length", lambda n: {"tokens": 60 * 0.6**n}),
    ],
)
def test_rounds_cannot_ratchet_away_from_the_base(name: str, step: Step) -> None:
    """Each round is within its bounds of the one before; the distance to the base stops them."""
    base = make_measures(spread=0.05, **step(0))
    live = base
    for number in range(1, 9):
        draft = make_measures(spread=0.05, **step(number))
        report = ask(draft, live=live, base=base)
        if report.verdict is not Verdict.passed:
            break
        live = draft
    assert number > 1
    assert report.verdict is Verdict.failed
    assert unmet(report) == {f"{name}_base"}


def test_few_votes_leave_a_harmless_draft_inconclusive() -> None:
    report = ask(make_measures(seed=9), votes=FEW_VOTES)
    assert report.verdict is Verdict.inconclusive
    assert "8 of 12 held-out prompts (11 of 19 pairs)" in report.summary


def test_no_votes_at_all_are_inconclusive() -> None:
    assert judge_votes(Votes(0, 0, 0, 0)).verdict is Verdict.inconclusive


@pytest.mark.parametrize(
    ("wins", "n", "verdict"),
    [
        (10, 12, Verdict.passed),
        (9, 12, Verdict.inconclusive),
        (2, 12, Verdict.failed),
        (3, 12, Verdict.inconclusive),
        (60, 100, Verdict.passed),
        (40, 100, Verdict.failed),
    ],
)
def test_held_out_votes_are_judged_by_an_exact_test(wins: int, n: int, verdict: Verdict) -> None:
    assert judge_votes(Votes(n, wins, n, wins)).verdict is verdict


def test_a_harm_check_that_cannot_be_decided_is_no_pass_and_asks_for_more_answers() -> None:
    even = replace(BASE, tokens=[60.0] * N)
    shift = BOUNDS.loss_rise_live * 0.9
    wide = replace(even, nats=[nats + 60 * (shift + (1 if i % 2 else -1)) for i, nats in enumerate(even.nats)])
    report = ask(wide, live=even, base=even)
    assert report.undecided_harm
    assert report.verdict is Verdict.failed


def test_a_failed_harm_check_asks_for_no_more_answers() -> None:
    assert not ask(make_measures(loss=2.4, seed=11)).undecided_harm


def test_the_report_is_plain_json_with_bounds_and_words() -> None:
    body = ask(make_measures(seed=12)).as_json()
    for check in body["checks"]:
        assert check.keys() == {"name", "title", "value", "low", "high", "least", "most", "verdict", "words"}
        assert check["words"]
    assert body["n_prompts"] == N
    assert body == json.loads(json.dumps(body)), "it is what comes back from the registry"


def test_every_question_about_the_live_policy_is_asked_about_the_base_too_with_more_room() -> None:
    live, base = against_live(BOUNDS), against_base(BOUNDS)
    for name in ("loss_fall", "loss_rise", "repeats_rise", "empty_rise", "cut_rise", "length_high"):
        assert getattr(base, name) >= getattr(live, name), name
    assert base.length_low <= live.length_low
    names = {check.name for check in ask(make_measures(seed=13)).checks}
    assert {f"{name.removesuffix('_base')}_base" for name in names - {"kl", "votes"}} <= names


def test_judging_again_with_the_same_report_changes_nothing(redis_url: str) -> None:
    client, line = connect(redis_url), LineName("burnish")
    registry, jobs = Registry(client, line), JobStore(client, line)
    registry.ensure_base("b" * 64)
    request = JobRequest("dpo", {}, "b" * 64, "1", [], 0, actor="test", reason="test")
    claim = jobs.claim(jobs.create(request).job.id, worker="test", lease_s=60)
    assert claim is not None
    version = version_name(registry.reserve(claim), "d" * 64)
    registry.add_draft(
        claim,
        Policy(
            version=version, counter=1, state=PolicyState.draft, base_digest="b" * 64, job_id=claim.job_id, created_at=0
        ),
    )
    report = ask(make_measures(seed=14)).as_json()
    view = registry.judge(claim, version, PolicyState.candidate, gate=report, metrics={})
    assert view.policy(version).gate == report
    again = registry.judge(claim, version, PolicyState.candidate, gate=report, metrics={})
    assert again.epoch == view.epoch


@pytest.mark.parametrize(
    ("answer", "share"), [((), 0), ((1, 2, 3), 0), ((1, 2, 3, 4, 5), 0), ((7,) * 13, 0.9), ((1, 2, 3, 4) * 4, 9 / 13)]
)
def test_repeated_4_grams(answer: tuple[int, ...], share: float) -> None:
    assert repeated_share(answer) == pytest.approx(share)
