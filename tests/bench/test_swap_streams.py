"""What is said of the answers that ran while versions were swapped. Pure."""

import pytest

from tests.bench.swap_streams import TOKENS, Told, counted, fault_of, longest_pause_s, silence_s

WORD_OF = {"v0001-a": 7, "v0002-b": 8}


def make_told(**overrides: object) -> Told:
    whole = {"status": 200, "model": "burnish@v0001-a", "tokens": [7] * TOKENS, "finish_reason": "length", "done": True}
    return Told(0.0, **{**whole, **overrides})  # type: ignore[arg-type]


def test_a_whole_answer_in_its_versions_one_word_is_well() -> None:
    assert fault_of(make_told(), WORD_OF) is None


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"status": 503, "tokens": [], "done": False, "error": "away"}, "failed"),
        ({"tokens": [], "done": False, "error": "reset"}, "failed"),
        ({"tokens": [7] * 3, "done": False, "error": "reset"}, "cut"),
        ({"done": False}, "cut"),
        ({"finish_reason": None}, "cut"),
        ({"tokens": [7] * (TOKENS - 1)}, "cut"),
        ({"tokens": [7] * (TOKENS - 1) + [8]}, "mixed"),
        ({"model": "burnish@v0002-b"}, "mixed"),
    ],
)
def test_whatever_is_wrong_is_named(overrides: dict[str, object], fault: str) -> None:
    told = make_told(**overrides)
    assert fault_of(told, WORD_OF) == fault
    assert counted([told, make_told()], WORD_OF) == {"answers": 2, "failed": 0, "cut": 0, "mixed": 0, fault: 1}


def test_pauses_are_within_an_answer_and_silences_across_all() -> None:
    answers = [make_told(times_s=[1.0, 1.5, 4.0]), make_told(times_s=[2.0, 2.2]), make_told(times_s=[9.0])]
    assert longest_pause_s(answers, 0.0, 10.0) == 2.5
    assert longest_pause_s(answers, 0.0, 1.2) == 0.5
    assert silence_s(answers, 0.0, 10.0) == 5.0
    assert silence_s(answers, 0.0, 3.0) == 0.5
