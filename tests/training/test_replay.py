"""Text to replay: what is taken, and what a wrong line is told."""

import json
from pathlib import Path

import pytest

from feedback.holdout import is_held_out
from training.errors import SettingsRefused
from training.replay import load_replay
from training.tokens import ChatTokens


def row(question: str, answer: str = "Because.") -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}], "answer": answer})


def held_out(question: str) -> bool:
    return is_held_out([{"role": "user", "content": question}])


def test_rows_become_answers_and_held_out_prompts_stay_out(tmp_path: Path, tiny_tokens: ChatTokens) -> None:
    questions = [f"Question {i}?" for i in range(20)]
    path = tmp_path / "replay.jsonl"
    path.write_text("\n\n".join(row(question) for question in questions), encoding="utf-8")
    found = load_replay(path, tiny_tokens, 2048)
    kept = [question for question in questions if not held_out(question)]
    assert 0 < len(kept) < 20
    assert [each.prompt for each in found] == [tiny_tokens.prompt([{"role": "user", "content": q}]) for q in kept]
    assert {(each.source, tiny_tokens.text(each.answer)) for each in found} == {("replay", "Because.")}
    assert load_replay(path, tiny_tokens, 10) == []


@pytest.mark.parametrize("line", ["{", '{"messages": []}', '{"messages": [{"role": "user"}], "answer": ""}', "[]"])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, tiny_tokens: ChatTokens, line: str) -> None:
    path = tmp_path / "replay.jsonl"
    path.write_text(row("One?") + "\n" + line, encoding="utf-8")
    with pytest.raises(SettingsRefused, match="line 2"):
        load_replay(path, tiny_tokens, 2048)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, tiny_tokens: ChatTokens) -> None:
    with pytest.raises(SettingsRefused, match=r"training\.replay = .*missing\.jsonl"):
        load_replay(tmp_path / "missing.jsonl", tiny_tokens, 2048)
