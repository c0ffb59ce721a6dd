"""General text to replay beside what people say, so that the policy does not forget: one JSON object a line."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from feedback.holdout import is_held_out
from feedback.turns import Message
from training.algorithms import REPLAY
from training.errors import PromptRefused, SettingsRefused
from training.examples.example import TokenAnswer
from training.examples.tokens import ChatTokens

MOST_TOKENS = 4 * 2**20
"""Tokens that are taken of a file, from its start: more than a job can use, and few enough to lie in memory."""


@dataclass(frozen=True)
class Replayed:
    """Rows to learn from; `left_out` counts the others by reason."""

    rows: tuple[TokenAnswer, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str = Field(min_length=1)


def load_replay(path: Path, tokens: ChatTokens, max_tokens: int) -> Replayed:
    """The rows `{"messages": [...], "answer": "..."}` of a file, but for held-out prompts, those of more than
    `max_tokens`, and what comes after the first MOST_TOKENS.

    SettingsRefused names the line that is no such row.
    """
    found: list[TokenAnswer] = []
    left_out: Counter[str] = Counter()
    n_tokens = 0
    for number, line in _lines(path):
        if n_tokens >= MOST_TOKENS:
            left_out[f"replay: after the first {MOST_TOKENS} tokens"] += 1
            continue
        try:
            row = _Row.model_validate(json.loads(line))
            made = _tokenise(row, number, tokens)
        except (ValueError, RecursionError, PromptRefused) as error:
            raise SettingsRefused(
                f'training.replay = {path}, line {number}: {error}; a row is {{"messages": [...], "answer": "..."}}'
            ) from error
        if (why := _unusable(row, made, max_tokens)) is not None:
            left_out[why] += 1
            continue
        found.append(made)
        n_tokens += made.item.n_tokens
    return Replayed(tuple(found), dict(left_out))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, by their number, one at a time."""
    try:
        with path.open(encoding="utf-8") as opened:
            yield from ((number, line) for number, line in enumerate(opened, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"training.replay = {path}: {error}") from error


def _tokenise(row: _Row, number: int, tokens: ChatTokens) -> TokenAnswer:
    return TokenAnswer(
        event_id=f"replay-{number}",
        question="",
        prompt=tokens.prompt(row.messages),
        answer=tokens.answer(row.answer),
        source=REPLAY,
    )


def _unusable(row: _Row, made: TokenAnswer, max_tokens: int) -> str | None:
    """Why a row is left out, in the words of the report."""
    if made.item.n_tokens > max_tokens:
        return f"replay: longer than {max_tokens} tokens"
    return "replay: held out" if is_held_out(row.messages) else None
