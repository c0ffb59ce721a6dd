"""Every field a completion request may carry, and what becomes of it: the one table that says so.

`sent` fields reach the engine once their check has passed; `read` ones are for the gateway alone; `ignored` ones are
accepted because OpenAI's clients send them, and change nothing; `refused` ones could harm the engine, the other
tenants or the record of what was answered. A field that is not in the table is refused too. docs/fields.md is made of
this table by `field_docs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from serve.requests.field_checks import (
    INT64,
    Check,
    flag,
    list_of,
    number,
    stop_strings,
    stream_options,
    text,
    text_only,
    token_biases,
    token_id,
    whole,
)
from serve.requests.message_checks import messages, metadata, prompt
from serve.requests.tool_checks import MOST_TOOLS, response_format, tool, tool_choice

TOKENS = 2**31 - 1


class Treatment(StrEnum):
    sent = "sent"
    read = "read"
    ignored = "ignored"
    refused = "refused"


@dataclass(frozen=True)
class Field:
    """`sampling` fields make up the turn's `sampling`: what must be equal between two answers that are compared.

    `operators` fields are 0 for all callers but operators. A `read` field's check is made by `chat_request`.
    """

    treatment: Treatment
    check: Check | None = None
    why: str = ""
    sampling: bool = False
    operators: bool = False


def _sent(check: Check, *, sampling: bool = False) -> Field:
    return Field(Treatment.sent, check, sampling=sampling)


def _sampling(check: Check) -> Field:
    return _sent(check, sampling=True)


def _ignored(why: str) -> Field:
    return Field(Treatment.ignored, why=why)


def _refused(why: str) -> Field:
    return Field(Treatment.refused, why=why)


def _read(check: Check, why: str) -> Field:
    return Field(Treatment.read, check, why=why)


_TEMPLATE = "the prompt is made by the model's own chat template, so that training sees what serving saw"
_PRIORITY = "0 is as urgent as users' chat, larger waits longer"
_ENGINE_OWN = "it steers the engine itself"
_MEDIA = "this model reads and writes text only"
_NO_THOUGHTS = "this model does not reason apart"

_BOTH: dict[str, Field] = {
    "model": _read(text(256), "the line's name for what is live, or a version such as `burnish@v0007`"),
    "n": _read(whole(1, 128), "at most `BURNISH_GATEWAY_MAX_N`; each choice is a turn of its own"),
    "stream": _read(flag, "the answer as server-sent events"),
    "user": _read(text(256), "the person who asks"),
    "safety_identifier": _read(text(256), "the person who asks, where `user` is not given"),
    "store": _read(flag, "false keeps no turn, so the answer cannot be voted on"),
    "metadata": _read(metadata, "of it `session`, `compare_with` and `duel` are read, and nothing else is kept"),
    "return_token_ids": _read(flag, "adds `prompt_token_ids` and `token_ids` to the answer"),
    "stream_options": _sent(stream_options),
    "temperature": _sampling(number(0, 2)),
    "top_p": _sampling(number(1e-6, 1)),
    "top_k": _sampling(whole(-1, 1_000_000)),
    "min_p": _sampling(number(0, 1)),
    "seed": _sampling(whole(-INT64, INT64 - 1)),
    "stop": _sampling(stop_strings),
    "stop_token_ids": _sampling(list_of(token_id, 0, 64)),
    "min_tokens": _sampling(whole(0, 1_000_000)),
    "ignore_eos": _sampling(flag),
    "frequency_penalty": _sampling(number(-2, 2)),
    "presence_penalty": _sampling(number(-2, 2)),
    "repetition_penalty": _sampling(number(0.01, 10)),
    "logit_bias": _sampling(token_biases),
    "bad_words": _sampling(list_of(text(256), 0, 64)),
    "response_format": _sampling(response_format),
    "include_stop_str_in_output": _sent(flag),
    "skip_special_tokens": _sent(flag),
    "spaces_between_special_tokens": _sent(flag),
    "prompt_logprobs": _sent(whole(0, 5)),
    "priority": Field(Treatment.sent, whole(0, 100), why=_PRIORITY, operators=True),
    "service_tier": _ignored("there is one tier"),
    "chat_template": _refused(_TEMPLATE),
    "chat_template_kwargs": _refused(_TEMPLATE),
    "add_generation_prompt": _refused(_TEMPLATE),
    "continue_final_message": _refused(_TEMPLATE),
    "add_special_tokens": _refused(_TEMPLATE),
    "truncate_prompt_tokens": _refused(_TEMPLATE),
    "documents": _refused(_TEMPLATE),
    "prompt_embeds": _refused("tensors from outside are not read"),
    "cache_salt": _refused("the gateway alone keeps tenants' caches apart"),
    "request_id": _refused(_ENGINE_OWN),
    "session_id": _refused(_ENGINE_OWN + "; to group a conversation use metadata.session"),
    "kv_transfer_params": _refused(_ENGINE_OWN),
    "ec_transfer_params": _refused(_ENGINE_OWN),
    "vllm_xargs": _refused(_ENGINE_OWN),
    "structured_outputs": _refused(_ENGINE_OWN + "; use response_format"),
    "mm_processor_kwargs": _refused(_MEDIA),
    "media_io_kwargs": _refused(_MEDIA),
    "truncation_side": _refused(_TEMPLATE),
    "mm_payload": _refused(_MEDIA),
    "return_mm_kwargs": _refused(_MEDIA),
    "allowed_token_ids": _refused(_ENGINE_OWN + "; use logit_bias or response_format"),
    "logprob_token_ids": _refused("log-probs are those of the sampled and the likeliest tokens"),
    "repetition_detection": _refused("an answer must end by itself, at a stop string or at its limit"),
    "return_token_offsets": _refused("the engine gives none with an answer"),
    "return_tokens_as_token_ids": _refused("tokens are told as text; use return_token_ids"),
    "routed_experts_prompt_start": _refused(_ENGINE_OWN),
    "stream_interval": _refused(_ENGINE_OWN),
    "watermarking": _refused("a watermarked answer is not a sample of the policy"),
    "length_penalty": _refused("only a beam search reads it"),
    "thinking_token_budget": _ignored(_NO_THOUGHTS),
    "use_beam_search": _refused("a beam's answer is not a sample of the policy, so votes on it teach nothing"),
    "best_of": _refused("answers that are thrown away cannot be voted on; use n"),
}

CHAT_FIELDS: Mapping[str, Field] = {
    **_BOTH,
    "messages": _read(messages, "`developer` is read as `system`; text parts are joined by line breaks"),
    "max_tokens": _read(whole(1, TOKENS), "at most the engine's context"),
    "max_completion_tokens": _read(whole(1, TOKENS), "wins over `max_tokens`; at most the engine's context"),
    "logprobs": _sent(flag),
    "top_logprobs": _sent(whole(0, 20)),
    "tools": _sampling(list_of(tool, 1, MOST_TOOLS)),
    "tool_choice": _sampling(tool_choice),
    "parallel_tool_calls": _sampling(flag),
    "modalities": Field(Treatment.ignored, text_only, why="text is the only one"),
    "reasoning_effort": _ignored(_NO_THOUGHTS),
    "include_reasoning": _ignored(_NO_THOUGHTS),
    "verbosity": _ignored("say it in the prompt"),
    "prompt_cache_key": _ignored("caching is automatic"),
    "prompt_cache_retention": _ignored("caching is automatic"),
    "prompt_cache_options": _ignored("caching is automatic"),
    "echo": _refused(_TEMPLATE),
    "return_prompt_text": _refused("use return_token_ids, which says how the engine read the prompt"),
    "audio": _refused(_MEDIA),
    "moderation": _refused("nothing is moderated here, and nobody should think so"),
    "prediction": _refused("the engine runs no speculative decoding on given text"),
    "web_search_options": _refused("there is no search here"),
    "functions": _refused("deprecated by OpenAI; use tools"),
    "function_call": _refused("deprecated by OpenAI; use tool_choice"),
}

COMPLETION_FIELDS: Mapping[str, Field] = {
    **_BOTH,
    "prompt": _read(prompt, "several prompts are several requests here"),
    "max_tokens": _read(whole(0, TOKENS), "at most the engine's context; 0 only with `echo`"),
    "echo": _sent(flag),
    "logprobs": _sent(whole(0, 20)),
    "suffix": _refused("this model does not fill gaps"),
}
