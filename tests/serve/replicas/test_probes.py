"""The verdict on an adapter, from log-probs."""

from collections.abc import Sequence

import pytest

from serve.adapters.manifest import Probe
from serve.replicas.probes import Scored, judge_probes

BASE, ADAPTER = (-1.0, -2.0, -1.5), (-0.5, -2.6, -1.1)
PROBE = Probe(token_ids=(1, 2, 3, 4, 5), start=2, base=BASE, adapter=ADAPTER)


def noisy(values: tuple[float, ...], by: float) -> list[float]:
    return [value + (by if i % 2 else -by) for i, value in enumerate(values)]


def served(base: Sequence[float], adapter: Sequence[float]) -> Scored:
    """The engine's rows for PROBE: its scored part after one more token that is not scored."""
    return Scored([[-9.0, *base]], [[-9.0, *adapter]])


def test_the_same_numbers_within_noise_pass() -> None:
    verdict = judge_probes([PROBE], served(noisy(BASE, 0.05), noisy(ADAPTER, 0.06)), 0.15)
    assert verdict.problem is None
    assert verdict.base_off == pytest.approx(0.05)
    assert verdict.adapter_off == pytest.approx(0.06)
    assert verdict.effect_trained == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("base", "adapter", "words"),
    [
        (noisy(BASE, 0.3), list(ADAPTER), "another base"),
        (list(BASE), list(BASE), "do not reach the model"),
        (list(BASE), noisy(BASE, 0.05), "do not reach the model"),
        (list(BASE), [0.1, -3.2, -0.5], "not the adapter that the manifest was written for"),
    ],
)
def test_whatever_does_not_fit_is_named(base: list[float], adapter: list[float], words: str) -> None:
    problem = judge_probes([PROBE], served(base, adapter), 0.15).problem
    assert problem is not None
    assert words in problem


def test_an_adapter_that_changed_nothing_in_training_cannot_be_verified() -> None:
    probe = Probe(token_ids=(1, 2, 3, 4, 5), start=2, base=BASE, adapter=BASE)
    assert judge_probes([probe], served(BASE, BASE), 0.15).problem is not None


def test_a_policy_in_its_first_steps_may_be_faint_but_must_still_agree() -> None:
    faint = noisy(BASE, 0.001)
    probe = Probe(token_ids=(1, 2, 3, 4, 5), start=2, base=BASE, adapter=tuple(faint))
    assert judge_probes([probe], served(BASE, faint), 0.15).problem is not None
    assert judge_probes([probe], served(BASE, faint), 0.15, may_be_faint=True).problem is None
    off = judge_probes([probe], served(BASE, noisy(BASE, 0.3)), 0.15, may_be_faint=True).problem
    assert off is not None
    assert "not the adapter that the manifest was written for" in off
    strong = judge_probes([PROBE], served(BASE, BASE), 0.15, may_be_faint=True).problem
    assert strong is not None, "one that changed much in training must change as much here"


@pytest.mark.parametrize("wrong", [{"base": (-1.0,)}, {"start": 0}, {"start": 5}, {"token_ids": (1,)}])
def test_probes_that_do_not_add_up_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Probe.model_validate({"token_ids": (1, 2, 3, 4, 5), "start": 2, "base": BASE, "adapter": ADAPTER, **wrong})
