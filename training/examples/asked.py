"""Which prompts are asked again: held-out ones by the gate, all others by policies that learn from their own answers.

Pure, given a tokenizer.
"""

from collections.abc import Iterable, Sequence

from feedback.holdout import is_held_out
from feedback.pairs import Pair
from feedback.turns import Message, Turn
from training.errors import PromptRefused
from training.examples.tokens import ChatTokens

LONGEST_PROMPT_TOKENS = 1024
"""Longer prompts are not asked again: it would take long."""

Prompt = tuple[Message, ...]


def held_out_prompts(pairs: Sequence[Pair], tokens: ChatTokens) -> list[Prompt]:
    """The distinct held-out prompts that people voted on, newest first, but for those that cannot be scored again."""
    seen: dict[str, Prompt] = {}
    for pair in reversed(pairs):
        if is_held_out(pair.messages) and _can_be_asked(pair, tokens):
            seen.setdefault(repr(pair.messages), tuple(pair.messages))
    return list(seen.values())


def asked_prompts(turns: Iterable[Turn], tokens: ChatTokens) -> list[Prompt]:
    """The distinct prompts of chats that are not held out and that the engine reads as training does, oldest first."""
    seen: dict[str, Prompt] = {}
    for turn in sorted(turns, key=lambda turn: (turn.at, turn.id)):
        if turn.messages and not is_held_out(turn.messages) and _can_be_asked(turn, tokens):
            seen.setdefault(repr(turn.messages), tuple(turn.messages))
    return list(seen.values())


def with_room(prompts: Sequence[Prompt], tokens: ChatTokens, context_tokens: int, max_tokens: int) -> list[Prompt]:
    """The prompts that leave room for `max_tokens` in the engine's context."""
    return [prompt for prompt in prompts if len(tokens.prompt(prompt)) + max_tokens <= context_tokens]


def _can_be_asked(pair: Pair | Turn, tokens: ChatTokens) -> bool:
    """Whether the prompt fits, and is read by the engine as training reads it."""
    try:
        prompt = tokens.prompt(pair.messages)
    except PromptRefused:
        return False
    return len(prompt) <= LONGEST_PROMPT_TOKENS and prompt == (pair.prompt_token_ids or prompt)
