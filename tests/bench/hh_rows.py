"""The hh_harmless dialogues as pairs of token ids, in three splits that share no conversation."""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.turns import first_user_text
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Dialogue:
    """What was said before, and the two last answers."""

    messages: Messages
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Splits:
    """Pairs to train on, to fit the temperature on, and to judge by; `left_out` counts rows by reason."""

    train: list[TokenPair]
    calibration: list[TokenPair]
    held_out: list[TokenPair]
    left_out: dict[str, int]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The file's rows; SystemExit says what to do when it is not there."""
    if not path.exists():
        raise SystemExit(
            f"{path} is not there: put hh_harmless.jsonl.gz (rows with `chosen` and `rejected`, whole dialogues; the "
            "test split of harmless-base in anthropics/hh-rlhf) into the folder named by --data"
        )
    with gzip.open(path, "rt", encoding="utf-8") as opened:
        return [json.loads(line) for line in opened]


def split_dialogue(row: Mapping[str, str]) -> Dialogue | None:
    """A row as a chat; None where the two dialogues differ before their last answer."""
    chosen, rejected = _turns(row["chosen"]), _turns(row["rejected"])
    same_chat = chosen[:-1] == rejected[:-1] and bool(chosen[:-1])
    if not same_chat or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        return None
    return Dialogue(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def make_splits(
    rows: Iterable[Mapping[str, str]], tokens: ChatTokens, *, trained: int, calibration: int, held_out: int
) -> Splits:
    """`held_out` pairs to judge by; `trained` others, of which `calibration` are kept for the temperature alone.

    Conversations are ordered by a hash of their first user message and never divided between splits.
    """
    left_out = {"dialogues differ before the last answer": 0, "equal answers": 0}
    by_start: dict[str, list[TokenPair]] = {}
    for number, row in enumerate(rows):
        dialogue = split_dialogue(row)
        if dialogue is None:
            left_out["dialogues differ before the last answer"] += 1
            continue
        pair = TokenPair(
            event_id=f"row-{number}",
            question=first_user_text(dialogue.messages),
            prompt=tokens.prompt(dialogue.messages),
            chosen=tokens.answer(dialogue.chosen),
            rejected=tokens.answer(dialogue.rejected),
        )
        if pair.chosen == pair.rejected:
            left_out["equal answers"] += 1
            continue
        by_start.setdefault(first_user_text(dialogue.messages).strip(), []).append(pair)
    order = sorted(by_start, key=lambda text: hashlib.sha256(text.encode()).digest())
    groups = [by_start[text] for text in order]
    judged, groups = _fill(groups, held_out)
    fitted, groups = _fill(groups, calibration)
    learned, groups = _fill(groups, trained - calibration)
    left_out["not asked for"] = sum(map(len, groups))
    return Splits(learned, fitted, judged, left_out)


def _fill(groups: Sequence[list[TokenPair]], size: int) -> tuple[list[TokenPair], list[list[TokenPair]]]:
    """Whole groups in their order until `size` pairs are taken, and the groups that are left."""
    taken: list[TokenPair] = []
    left: list[list[TokenPair]] = []
    for group in groups:
        if len(taken) + len(group) <= size:
            taken += group
        else:
            left.append(group)
    return taken, left


def _turns(text: str) -> Messages:
    parts = _TURN.split(text)
    return [{"role": _ROLES[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
