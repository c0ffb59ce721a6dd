"""Every field a completion request may carry, and what becomes of it: the one table that says so.

`sent` fields reach the engine once their check has passed; `read` ones are for the gateway alone; `ignored` ones are
accepted because OpenAI's clients send them, and change nothing; `refused` ones could harm the engine, the other
tenants or the record of what was answered. A field that is not in the table is refused too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serve.errors import BadRequest

Check = Callable[[str, Any], Any]
"""Gives the value to send on, or raises BadRequest."""

INT64 = 2**63


class Treatment(StrEnum):
    sent = "sent"
    read = "read"
    ignored = "ignored"
    refused = "refused"


@dataclass(frozen=True)
class Field:
    """`sampling` fields make up the turn's `sampling`: what must be equal between two answers that are compared.

    `operators` fields are 0 for all callers but operators.
    """

    treatment: Treatment
    check: Check | None = None
    why: str = ""
    sampling: bool = False
    operators: bool = False


def wrong(name: str, value: object, wanted: str) -> BadRequest:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return BadRequest(f"{name} is {shown}; it must be {wanted}", param=name)


def number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= high:
            raise wrong(name, value, f"a number from {low:g} to {high:g}")
        return value

    return check


def whole(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise wrong(name, value, f"a whole number from {low} to {high}")
        return value

    return check


def flag(name: str, value: Any) -> Any:
    if type(value) is not bool:
        raise wrong(name, value, "true or false")
    return value


def text(most: int) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) is not str or not 1 <= len(value) <= most:
            raise wrong(name, value, f"a string of 1 to {most} characters")
        return value

    return check


def list_of(kind: type, most: int) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) is not list or len(value) > most or any(type(item) is not kind for item in value):
            raise wrong(name, value, f"a list of at most {most} of {kind.__name__}")
        return value

    return check


def stop_strings(name: str, value: Any) -> Any:
    strings = [value] if type(value) is str else value
    well_made = type(strings) is list and all(type(s) is str and 0 < len(s) <= 256 for s in strings)
    if not well_made or len(strings) > 16:
        raise wrong(name, value, "a string, or a list of at most 16, each of 1 to 256 characters")
    return value


def token_biases(name: str, value: Any) -> Any:
    if type(value) is not dict or len(value) > 300:
        raise wrong(name, value, "an object of at most 300 token ids")
    for token, bias in value.items():
        if not token.isdecimal() or type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise wrong(f"{name}.{token}", bias, "a number from -100 to 100 under a token id")
    return value


def response_format(name: str, value: Any) -> Any:
    kinds = ("text", "json_object", "json_schema")
    if type(value) is not dict or value.get("type") not in kinds:
        raise wrong(name, value, f"an object whose type is one of {', '.join(kinds)}")
    return value


def stream_options(name: str, value: Any) -> Any:
    if type(value) is not dict or any(type(v) is not bool for v in value.values()):
        raise wrong(name, value, "an object of true and false")
    unknown = value.keys() - {"include_usage", "include_obfuscation", "continuous_usage_stats"}
    if unknown:
        raise wrong(f"{name}.{min(unknown)}", value[min(unknown)], "left out")
    return {k: v for k, v in value.items() if k != "include_obfuscation"}


def text_only(name: str, value: Any) -> Any:
    if value != ["text"]:
        raise wrong(name, value, '["text"]: this model writes text only')
    return value


def tool_choice(name: str, value: Any) -> Any:
    if value not in ("none", "auto", "required") and type(value) is not dict:
        raise wrong(name, value, '"none", "auto", "required" or an object naming a function')
    return value


def _sent(check: Check, *, sampling: bool = False) -> Field:
    return Field(Treatment.sent, check, sampling=sampling)


def _sampling(check: Check) -> Field:
    return _sent(check, sampling=True)


def _ignored(why: str) -> Field:
    return Field(Treatment.ignored, why=why)


def _refused(why: str) -> Field:
    return Field(Treatment.refused, why=why)


_READ = Field(Treatment.read)
_TEMPLATE = "the prompt is made by the model's own chat template, so that training sees what serving saw"
_PRIORITY = "0 is as urgent as users' chat, larger waits longer"
_ENGINE_OWN = "it steers the engine itself"
_MEDIA = "this model reads and writes text only"

_BOTH: dict[str, Field] = {
    "model": _READ,
    "n": _READ,
    "max_tokens": _READ,
    "stream": _READ,
    "user": _READ,
    "safety_identifier": _READ,
    "store": _READ,
    "metadata": _READ,
    "return_token_ids": _READ,
    "stream_options": _sent(stream_options),
    "temperature": _sampling(number(0, 2)),
    "top_p": _sampling(number(1e-6, 1)),
    "top_k": _sampling(whole(-1, 1_000_000)),
    "min_p": _sampling(number(0, 1)),
    "seed": _sampling(whole(-INT64, INT64 - 1)),
    "stop": _sampling(stop_strings),
    "stop_token_ids": _sampling(list_of(int, 64)),
    "min_tokens": _sampling(whole(0, 1_000_000)),
    "ignore_eos": _sampling(flag),
    "frequency_penalty": _sampling(number(-2, 2)),
    "presence_penalty": _sampling(number(-2, 2)),
    "repetition_penalty": _sampling(number(0.01, 10)),
    "logit_bias": _sampling(token_biases),
    "bad_words": _sampling(list_of(str, 64)),
    "response_format": _sampling(response_format),
    "include_stop_str_in_output": _sent(flag),
    "skip_special_tokens": _sent(flag),
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
    "use_beam_search": _refused("a beam's answer is not a sample of the policy, so votes on it teach nothing"),
    "best_of": _refused("answers that are thrown away cannot be voted on; use n"),
}

CHAT_FIELDS: Mapping[str, Field] = {
    **_BOTH,
    "messages": _READ,
    "max_completion_tokens": _READ,
    "logprobs": _sent(flag),
    "top_logprobs": _sent(whole(0, 20)),
    "tools": _sampling(list_of(dict, 128)),
    "tool_choice": _sampling(tool_choice),
    "parallel_tool_calls": _sampling(flag),
    "modalities": Field(Treatment.ignored, text_only, why="text is the only one"),
    "reasoning_effort": _ignored("this model does not reason apart"),
    "verbosity": _ignored("say it in the prompt"),
    "prompt_cache_key": _ignored("caching is automatic"),
    "prompt_cache_retention": _ignored("caching is automatic"),
    "audio": _refused(_MEDIA),
    "prediction": _refused("the engine runs no speculative decoding on given text"),
    "web_search_options": _refused("there is no search here"),
    "functions": _refused("deprecated by OpenAI; use tools"),
    "function_call": _refused("deprecated by OpenAI; use tool_choice"),
}

COMPLETION_FIELDS: Mapping[str, Field] = {
    **_BOTH,
    "prompt": _READ,
    "echo": _sent(flag),
    "logprobs": _sent(whole(0, 20)),
    "suffix": _refused("this model does not fill gaps"),
}
