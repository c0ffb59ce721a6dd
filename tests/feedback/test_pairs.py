"""What standing events teach, and which events stand."""

import pytest
from pydantic import ValidationError

from feedback.holdout import is_held_out
from feedback.pairs import build_pairs
from feedback.standing import standing
from tests.feedback.makers import comparison, make_event, make_turn, said

A = make_turn(id="a", answer="short")
B = make_turn(id="b", answer="a longer answer")
TURNS = {A.id: A, B.id: B}


@pytest.mark.parametrize(("verdict", "chosen", "rejected"), [("first", "a", "b"), ("second", "b", "a")])
def test_a_decided_comparison_prefers_the_turn_it_names(verdict: str, chosen: str, rejected: str) -> None:
    made = build_pairs([make_event(comparison("a", "b", verdict))], TURNS)
    (pair,) = made.pairs
    assert (pair.chosen.turn_id, pair.rejected.turn_id) == (chosen, rejected)
    assert pair.prompt_token_ids == A.prompt_token_ids


@pytest.mark.parametrize(
    ("sampling", "stops"),
    [
        ({"temperature": 1.0}, ()),
        ({"stop": "END"}, ("END",)),
        ({"stop": ["a", "b"], "stop_token_ids": [7, 9]}, ("a", "b", 7, 9)),
    ],
)
def test_an_answer_says_how_it_ended_and_where_the_caller_wanted_it_to(
    sampling: dict[str, object], stops: tuple[object, ...]
) -> None:
    turns = TURNS | {B.id: make_turn(id="b", answer="a longer answer", sampling=sampling, finish_reason="length")}
    (pair,) = build_pairs([make_event(comparison("a", "b"))], turns).pairs
    assert (pair.chosen.finish_reason, pair.chosen.stops) == ("stop", ())
    assert (pair.rejected.finish_reason, pair.rejected.stops) == ("length", stops)


def test_a_tie_is_a_pair_that_is_right_either_way_round() -> None:
    (pair,) = build_pairs([make_event(comparison("a", "b", "tie"))], TURNS).pairs
    assert (pair.chosen.turn_id, pair.rejected.turn_id, pair.preference) == ("a", "b", 0.5)


def test_an_edit_is_preferred_to_the_answer_it_mends_and_has_no_engine_tokens() -> None:
    (pair,) = build_pairs([make_event(said("edit", turn_id="b", text="better"))], TURNS).pairs
    assert (pair.chosen.text, pair.chosen.token_ids, pair.rejected.text) == (
        "better",
        None,
        B.answer,
    )


def test_events_that_make_no_pair_are_counted_under_their_reason() -> None:
    other = make_turn(id="c", messages=({"role": "user", "content": "another prompt"},))
    same = make_turn(id="d", answer="short")
    completion = make_turn(id="e", kind="completion", messages=(), prompt="Once")
    turns = TURNS | {t.id: t for t in (other, same, completion)}
    statements = [
        comparison("a", "b", "both_bad"),
        comparison("a", "c"),
        comparison("a", "d"),
        comparison("a", "gone"),
        said("edit", turn_id="e", text="there was"),
        said("rating", turn_id="a", value="up"),
    ]
    made = build_pairs([make_event(s, i) for i, s in enumerate(statements)], turns)
    assert made.pairs == ()
    assert made.skipped == {
        "both bad": 1,
        "different prompts": 1,
        "equal answers": 1,
        "turn no longer kept": 1,
        "not a chat": 1,
        "rating makes no pair": 1,
    }


def test_a_later_word_by_the_same_person_takes_the_place_of_the_earlier_in_whatever_order_it_names_the_turns() -> None:
    first, second = (
        make_event(comparison("a", "b"), 1),
        make_event(comparison("b", "a"), 2),
    )
    by_ben = make_event(comparison("a", "b"), 3, user="ben")
    thumb = make_event(said("rating", turn_id="a", value="up"), 4)
    assert standing([first, second, by_ben, thumb]) == [second, by_ben, thumb]


@pytest.mark.parametrize("source", ["judge", "simulated"])
def test_a_judge_or_a_simulated_user_never_takes_the_place_of_a_person(source: str) -> None:
    by_ann = make_event(comparison("a", "b"), 1)
    first, second = (make_event(comparison("a", "b", "second", source=source), n) for n in (2, 3))
    assert standing([by_ann, first, second]) == [by_ann, second]


def test_a_retraction_empties_the_place_and_a_late_one_changes_nothing() -> None:
    first, second = (
        make_event(comparison("a", "b"), 1),
        make_event(comparison("a", "b", "second"), 2),
    )
    assert standing([first, make_event(said("retract", event_id=first.id), 2)]) == []
    assert standing([first, second, make_event(said("retract", event_id=first.id), 3)]) == [second]
    assert standing([first, second, make_event(said("retract", event_id=second.id), 3)]) == []


def test_the_held_out_share_is_about_a_fifth_and_follows_the_first_user_message_alone() -> None:
    prompts = [[{"role": "user", "content": f"question {i}"}] for i in range(2000)]
    share = sum(is_held_out(p) for p in prompts) / len(prompts)
    assert 0.17 < share < 0.23
    longer = [
        *prompts[7],
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "more"},
    ]
    parts = [{"role": "user", "content": [{"type": "text", "text": "  QUESTION  7 "}]}]
    assert is_held_out(prompts[7]) == is_held_out(longer) == is_held_out(parts)
    assert not any(is_held_out(p, 0.0) for p in prompts)
    assert all(is_held_out(p, 1.0) for p in prompts)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "comparison", "turn_ids": ["a", "a"], "verdict": "first"}, "twice"),
        ({"kind": "comparison", "turn_ids": ["a", "b"], "verdict": "best"}, "first"),
        ({"kind": "comparison", "turn_ids": ["a"], "verdict": "first"}, "turn_ids"),
        (
            {
                "kind": "comparison",
                "turn_ids": ["a", "b"],
                "verdict": "tie",
                "shown": {"left": "c", "mode": "at_once"},
            },
            "c",
        ),
        ({"kind": "rating", "turn_id": "a", "value": ""}, "up"),
        ({"kind": "edit", "turn_id": "a", "text": "  "}, "text"),
        ({"kind": "applause", "turn_id": "a"}, "kind"),
        ({"kind": "aspect", "turn_id": "a", "name": "Helpful", "score": 3}, "name"),
        ({"kind": "aspect", "turn_id": "a", "name": "a:b", "score": 3}, "name"),
        ({"kind": "aspect", "turn_id": "a", "name": "helpful\n", "score": 3}, "name"),
        ({"kind": "aspect", "turn_id": "a", "name": "helpful", "score": 0}, "score"),
        ({"kind": "aspect", "turn_id": "a", "name": "helpful", "score": 6}, "score"),
        ({"kind": "aspect", "turn_id": "a", "name": "helpful", "score": True}, "score"),
        ({"kind": "rating", "turn_id": "a", "value": "up", "weight": 9}, "weight"),
    ],
)
def test_malformed_statements_are_refused(fields: dict[str, object], complaint: str) -> None:
    kind = fields.pop("kind")
    with pytest.raises(ValidationError, match=complaint):
        said(str(kind), **fields)
