"""Prompts that are asked again: those that leave room for an answer."""

from feedback.turns import Message
from training.examples.asked import with_room
from training.examples.tokens import ChatTokens


def test_prompts_that_leave_no_room_for_an_answer_are_not_asked(tiny_tokens: ChatTokens) -> None:
    short, long = [({"role": "user", "content": text},) for text in ("Tea?", "Tea, " * 40)]
    prompts: list[tuple[Message, ...]] = [short, long]
    sizes = [len(tiny_tokens.prompt(prompt)) for prompt in prompts]
    assert with_room(prompts, tiny_tokens, sizes[1] + 10, 10) == prompts
    assert with_room(prompts, tiny_tokens, sizes[1] + 9, 10) == [short]
    assert with_room(prompts, tiny_tokens, sizes[0] + 9, 10) == []
