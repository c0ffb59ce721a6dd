"""The gateway's JSON as the page's own types, on examples."""

from typing import Any

import pytest

from tests.ui.makers import asked
from ui.bodies import Ask, Piece, pieces_of, turn_of
from ui.chat.conversations import STOPPED
from ui.errors import AnswerBroken


def make_body(**overrides: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": "c-1",
        "session": "s1",
        "model": "v0000-base",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "answer": "Hello.",
        "finish_reason": "stop",
        "sampling": {},
        "compare_with": None,
        "duel": False,
    }
    return {**fields, **overrides}


def test_a_question_says_whether_it_may_be_a_duel() -> None:
    def metadata(**fields: Any) -> dict[str, str]:
        told: dict[str, str] = Ask("burnish", asked("Hi"), "me", "s1", {}, **fields).body()["metadata"]
        return told

    assert metadata() == {"session": "s1"}
    assert metadata(may_duel=True) == {"session": "s1", "duel": "allow"}
    assert metadata(compare_with="c-0") == {"session": "s1", "compare_with": "c-0"}


def test_a_duels_second_answer_is_compared_with_the_first_and_neither_has_a_version() -> None:
    first, second = (turn_of(make_body(id=each, duel=True, model=None)) for each in ("c-1", "c-1.1"))
    assert (first.compare_with, second.compare_with) == (None, "c-1")
    assert (first.version, second.version) == ("", "")
    assert first.duel
    assert second.duel


def test_a_turn_without_a_finish_reason_was_stopped() -> None:
    turn = turn_of(make_body(finish_reason=None, compare_with="c-0"))
    assert (turn.finish_reason, turn.compare_with, turn.messages) == (STOPPED, "c-0", asked("Hi"))


@pytest.mark.parametrize(("index", "turn_id", "beside"), [(0, "c-1", "c-1.1"), (1, "c-1.1", "c-1")])
def test_a_piece_of_a_duel_names_its_turn_and_the_other(index: int, turn_id: str, beside: str) -> None:
    event = {"id": "c-1", "model": "burnish", "choices": [{"index": index, "delta": {"content": "Tea"}}]}
    assert list(pieces_of(event, duel=True)) == [Piece(turn_id, "", "Tea", None, index, beside)]


def test_a_piece_of_one_answer_tells_who_writes_it() -> None:
    event = {"id": "c-1", "model": "burnish@v1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    assert list(pieces_of(event, duel=False)) == [Piece("c-1", "burnish@v1", "", "stop")]
    assert list(pieces_of({"choices": [], "usage": {}}, duel=False)) == []
    with pytest.raises(AnswerBroken, match="gone"):
        list(pieces_of({"error": {"message": "gone"}}, duel=True))
