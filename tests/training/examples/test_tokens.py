"""Chat messages as token ids, the end token, and the refusal of ids that are not the engine's."""

from typing import Any

import pytest

from tests.training.tiny import make_tokenizer
from training.errors import ModelRefused, PromptRefused, TokenMismatch
from training.examples.tokens import ChatTokens

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Say hello"}]


@pytest.fixture(scope="module")
def tokens() -> ChatTokens:
    return ChatTokens(make_tokenizer())


def test_a_prompt_ends_where_the_answer_begins(tokens: ChatTokens) -> None:
    text = make_tokenizer().decode(list(tokens.prompt(MESSAGES)))
    assert text == "<|im_start|>user\nSay hello<|im_end|>\n<|im_start|>assistant\n"


def test_a_written_answer_ends_with_the_end_token(tokens: ChatTokens) -> None:
    assert tokens.end_id == make_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert tokens.answer("hi") == (*make_tokenizer().encode("hi", add_special_tokens=False), tokens.end_id)


def test_another_answer_begins_after_the_end_token_as_the_template_writes_it(tokens: ChatTokens) -> None:
    assert make_tokenizer().decode(list(tokens.again())) == "\n<|im_start|>assistant\n"


def test_text_parts_count_as_the_text_they_make(tokens: ChatTokens) -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]
    assert tokens.prompt([{"role": "user", "content": parts}]) == tokens.prompt(
        [{"role": "user", "content": "Say\nhello"}]
    )


CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def test_an_assistant_that_only_calls_tools_says_nothing(tokens: ChatTokens) -> None:
    silent: list[dict[str, Any]] = [*MESSAGES, {"role": "assistant", "tool_calls": [CALL]}]
    assert tokens.prompt(silent) == tokens.prompt([*MESSAGES, {"role": "assistant", "content": ""}])
    assert tokens.prompt([*MESSAGES, {"role": "assistant", "content": None}]) == tokens.prompt(silent)


@pytest.mark.parametrize("arguments", ['{"a": 2}', "no JSON", "[]", "", None])
def test_a_template_gets_a_calls_arguments_as_an_object(arguments: str | None) -> None:
    tokenizer = make_tokenizer()
    calls = "{% for c in m['tool_calls'] or [] %}{{ c['function']['arguments']['a'] }}{% endfor %}<|im_end|>"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", calls, 1)
    tokens = ChatTokens(tokenizer)
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    said = "2" if arguments == '{"a": 2}' else ""
    assert tokens.prompt([*MESSAGES, {"role": "assistant", "tool_calls": [call]}]) == tokens.prompt(
        [*MESSAGES, {"role": "assistant", "content": said}]
    )


@pytest.mark.parametrize(
    ("system", "read"),
    [
        ("x-anthropic-billing-header: cch=1\nBe kind", "Be kind"),
        ("x-anthropic-billing-header: cch=1", ""),
        ("Be kind\nx-anthropic-billing-header: cch=1", "Be kind\nx-anthropic-billing-header: cch=1"),
    ],
)
def test_a_billing_header_is_dropped_as_the_engine_drops_it(tokens: ChatTokens, system: str, read: str) -> None:
    said, kept = ({"role": "system", "content": content} for content in (system, read))
    assert tokens.prompt([said]) == tokens.prompt([kept])


def test_messages_that_the_template_refuses_are_named() -> None:
    tokenizer = make_tokenizer()
    strict = "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    tokenizer.chat_template = strict + tokenizer.chat_template
    with pytest.raises(PromptRefused, match=r"\(tool\): TemplateError: no tools"):
        ChatTokens(tokenizer).prompt([{"role": "tool", "content": "4"}])


def test_the_engines_own_tokens_are_taken(tokens: ChatTokens) -> None:
    tokens.check_prompt(MESSAGES, tokens.prompt(MESSAGES), where="event ev-1")


@pytest.mark.parametrize("change", ["other token", "one less", "one more"])
def test_other_tokens_are_refused_with_the_place_where_they_differ(tokens: ChatTokens, change: str) -> None:
    ours = tokens.prompt(MESSAGES)
    theirs = {"other token": (*ours[:5], 1, *ours[6:]), "one less": ours[:-1], "one more": (*ours, 9)}[change]
    place = {"other token": 5, "one less": len(ours) - 1, "one more": len(ours)}[change]
    with pytest.raises(TokenMismatch, match=f"event ev-1.*position {place} on"):
        tokens.check_prompt(MESSAGES, theirs, where="event ev-1")


def test_an_answer_is_faithful_when_its_tokens_say_its_text(tokens: ChatTokens) -> None:
    assert tokens.is_faithful("hi there", tokens.answer("hi there"))
    assert tokens.is_faithful("hi there", tokens.answer("hi there")[:-1])
    assert not tokens.is_faithful("hi", tokens.answer("hi there"))


def test_an_answer_that_was_cut_within_a_character_is_faithful_to_what_was_shown(tokens: ChatTokens) -> None:
    whole = tokens.answer("はい、そうです")[:-1]
    cut = [whole[:n] for n in range(1, len(whole) + 1)]
    shown = [tokens.text(ids).rstrip("\ufffd") for ids in cut]
    assert any(tokens.text(ids) != text for ids, text in zip(cut, shown, strict=True)), "some are cut within one"
    assert all(tokens.is_faithful(text, ids) for ids, text in zip(cut, shown, strict=True))
    assert not tokens.is_faithful(shown[-1], whole[:3])


def test_the_name_of_a_special_token_in_a_written_answer_is_text(tokens: ChatTokens) -> None:
    said = "Write <|im_end|>\n<|im_start|>user and go on"
    assert tokens.answer(said).count(tokens.end_id) == 1
    assert tokens.text(tokens.answer(said)) == said


def test_a_template_without_an_end_token_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelRefused, match="end token"):
        ChatTokens(tokenizer)
