"""Text to replay: what is taken, and what a wrong line is told."""

import json
from pathlib import Path

import pytest

from feedback.holdout import is_held_out
from training.errors import SettingsRefused
from training.examples import replay
from training.examples.replay import Replayed, load_replay
from training.examples.tokens import ChatTokens


def row(question: str, answer: str = "Because.") -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}], "answer": answer})


def held_out(question: str) -> bool:
    return is_held_out([{"role": "user", "content": question}])


def test_rows_become_answers_and_held_out_prompts_stay_out(tmp_path: Path, tiny_tokens: ChatTokens) -> None:
    questions = [f"Question {i}?" for i in range(20)]
    path = tmp_path / "replay.jsonl"
    path.write_text("\n\n".join(row(question) for question in questions), encoding="utf-8")
    found = load_replay(path, tiny_tokens, 2048).rows
    kept = [question for question in questions if not held_out(question)]
    assert 0 < len(kept) < 20
    assert [each.prompt for each in found] == [tiny_tokens.prompt([{"role": "user", "content": q}]) for q in kept]
    assert {(each.source, tiny_tokens.text(each.answer)) for each in found} == {("replay", "Because.")}


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path, tiny_tokens: ChatTokens) -> None:
    questions = [f"Question {i}?" for i in range(20)]
    rows = [row(question) for question in questions] + [row("Long?", "a" * 300), row("Longer?", "b" * 400)]
    path = tmp_path / "replay.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    n_held_out = sum(held_out(question) for question in questions)
    found = load_replay(path, tiny_tokens, 256)
    assert n_held_out > 0
    assert found.left_out == {"replay: held out": n_held_out, "replay: longer than 256 tokens": 2}
    assert len(found.rows) == 20 - n_held_out
    assert load_replay(path, tiny_tokens, 10) == Replayed(left_out={"replay: longer than 10 tokens": 22})


def test_of_a_long_file_the_first_tokens_are_taken_and_the_rest_is_not_even_read_as_rows(
    tmp_path: Path, tiny_tokens: ChatTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay.jsonl"
    questions = [text for text in (f"Question {i}?" for i in range(10, 99)) if not held_out(text)][:20]
    path.write_text("\n".join([*(row(question) for question in questions), "{"]), encoding="utf-8")
    n_each = load_replay_of(questions[0], tmp_path, tiny_tokens)
    monkeypatch.setattr(replay, "MOST_TOKENS", 5 * n_each - 1)
    found = load_replay(path, tiny_tokens, 2048)
    assert [each.event_id for each in found.rows] == [f"replay-{number}" for number in range(1, 6)]
    assert found.left_out == {f"replay: after the first {5 * n_each - 1} tokens": 16}


def load_replay_of(question: str, folder: Path, tokens: ChatTokens) -> int:
    """The tokens of a file of one row."""
    path = folder / "one.jsonl"
    path.write_text(row(question), encoding="utf-8")
    [only] = load_replay(path, tokens, 2048).rows
    return only.item.n_tokens


def test_a_row_may_hold_any_mark_that_ends_a_line_elsewhere(tmp_path: Path, tiny_tokens: ChatTokens) -> None:
    question = next(text for text in ("One\u2028two?", "One\u2028three?", "One\x85two?") if not held_out(text))
    path = tmp_path / "replay.jsonl"
    path.write_text(json.dumps(json.loads(row(question)), ensure_ascii=False), encoding="utf-8")
    assert len(load_replay(path, tiny_tokens, 2048).rows) == 1


NO_ROWS = ["{", '{"messages": []}', '{"messages": [{"role": "user"}], "answer": ""}', "[]", "[" * 100_000]


@pytest.mark.parametrize("line", NO_ROWS, ids=lambda line: line[:20])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, tiny_tokens: ChatTokens, line: str) -> None:
    path = tmp_path / "replay.jsonl"
    path.write_text(row("One?") + "\n" + line, encoding="utf-8")
    with pytest.raises(SettingsRefused, match="line 2"):
        load_replay(path, tiny_tokens, 2048)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, tiny_tokens: ChatTokens) -> None:
    with pytest.raises(SettingsRefused, match=r"training\.replay = .*missing\.jsonl"):
        load_replay(tmp_path / "missing.jsonl", tiny_tokens, 2048)
