"""What vLLM says when it refuses, as OpenAI's clients expect to read it. Pure; the messages are vLLM 0.32's own."""

import pytest

from serve.replicas.engine_refusals import refusal

TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=2049)"
)


@pytest.mark.parametrize(("chat", "param"), [(True, "messages"), (False, "prompt")])
def test_a_prompt_that_is_too_long_has_openais_code(chat: bool, param: str) -> None:
    error = refusal(400, TOO_LONG, "input_tokens", chat=chat)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", param)
    assert error.message.endswith("the input prompt.")


def test_an_engine_without_a_tool_parser_says_so_of_tools() -> None:
    theirs = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    error = refusal(400, theirs, None, chat=True)
    assert (error.code, error.param) == ("unsupported_parameter", "tools")
    assert "BURNISH_ENGINE_TOOL_PARSER" in error.message


def test_a_schema_that_the_engine_cannot_compile_is_the_formats_fault() -> None:
    error = refusal(400, "Grammar error: Invalid type: frob", None, chat=True)
    assert (error.code, error.param) == ("invalid_json_schema", "response_format")


def test_other_refusals_keep_their_words_and_name_the_callers_field() -> None:
    theirs = "token_id(s) [99] in logit_bias contain out-of-vocab token ids. (parameter=logit_bias, value=[99])"
    error = refusal(422, theirs, "body.logit_bias", chat=True)
    assert (error.status, error.param, error.code) == (422, "logit_bias", None)
    assert error.message.endswith("token ids.")
