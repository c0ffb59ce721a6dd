"""General text to replay beside what people say, so that the policy does not forget: one JSON object a line."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feedback.holdout import is_held_out
from feedback.turns import Message
from training.curate import TokenAnswer
from training.errors import PromptRefused, SettingsRefused
from training.tokens import ChatTokens


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str = Field(min_length=1)


def load_replay(path: Path, tokens: ChatTokens, max_tokens: int) -> list[TokenAnswer]:
    """The rows `{"messages": [...], "answer": "..."}` of a file, but for held-out prompts and those that are too long.

    SettingsRefused names the line that is no such row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"training.replay = {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _Row.model_validate(json.loads(line))
            made = TokenAnswer(
                event_id=f"replay-{number}",
                question="",
                prompt=tokens.prompt(row.messages),
                answer=tokens.answer(row.answer),
                source="replay",
            )
        except (ValueError, ValidationError, PromptRefused) as error:
            raise SettingsRefused(
                f'training.replay = {path}, line {number}: {error}; a row is {{"messages": [...], "answer": "..."}}'
            ) from error
        if made.item.n_tokens <= max_tokens and not is_held_out(row.messages):
            found.append(made)
    return found
