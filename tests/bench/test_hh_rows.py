"""The rows of hh_harmless as pairs: what a dialogue becomes, and that splits share no conversation."""

import gzip
import json
from pathlib import Path

import pytest

from tests.bench.hh_rows import Dialogue, make_splits, read_rows, split_dialogue
from tests.training.tiny import make_tokenizer
from training.examples.tokens import ChatTokens


def make_row(start: str, chosen: str, rejected: str, between: str = "") -> dict[str, str]:
    head = f"\n\nHuman: {start}{between}\n\nAssistant: "
    return {"chosen": head + chosen, "rejected": head + rejected}


def test_a_dialogue_is_its_messages_and_the_two_last_answers() -> None:
    row = make_row("Hi", "Good day", "What?\n\nNothing", between="\n\nAssistant: Yes?\n\nHuman: Well")
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Well"},
    ]
    assert split_dialogue(row) == Dialogue(messages, "Good day", "What?\n\nNothing")


def test_dialogues_that_part_before_the_last_answer_make_no_pair() -> None:
    assert split_dialogue({**make_row("Hi", "a", "b"), "rejected": make_row("Ho", "a", "b")["rejected"]}) is None


def test_splits_have_their_sizes_and_share_no_conversation() -> None:
    tokens = ChatTokens(make_tokenizer())
    rows = [make_row(f"Q{i // 2}", f"good {i}", f"bad {i}") for i in range(60)]
    rows += [make_row("same", "x", "x"), {**rows[0], "rejected": make_row("other", "a", "b")["rejected"]}]
    splits = make_splits(rows, tokens, trained=40, calibration=10, held_out=12)
    parts = (splits.train, splits.calibration, splits.held_out)
    assert [len(part) for part in parts] == [30, 10, 12]
    prompts = [{pair.prompt for pair in part} for part in parts]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert splits.left_out == {"dialogues differ before the last answer": 1, "equal answers": 1, "not asked for": 8}
    assert splits == make_splits(rows, tokens, trained=40, calibration=10, held_out=12)


def test_rows_are_read_and_an_absent_file_says_what_to_put_where(tmp_path: Path) -> None:
    path = tmp_path / "hh_harmless.jsonl.gz"
    with pytest.raises(SystemExit, match=r"hh_harmless\.jsonl\.gz is not there: put"):
        read_rows(path)
    with gzip.open(path, "wt") as opened:
        opened.write(json.dumps(make_row("Hi", "a", "b")) + "\n")
    assert read_rows(path) == [make_row("Hi", "a", "b")]
