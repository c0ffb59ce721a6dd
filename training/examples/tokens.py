"""Messages and answers as the engine's token ids: the chat template applied as vLLM applies it, and checks that it was.

Works on any tokenizer of transformers; loads none itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from feedback.turns import Message
from training.errors import EndMismatch, ModelRefused, PromptRefused, TokenMismatch

TokenIds = tuple[int, ...]

_PROBE = "Burnish"
_BROKEN = "\ufffd"
_BILLING_HEADER = "x-anthropic-billing-header"
"""vLLM drops a line of a system message that starts so: it changes with every request."""


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any: ...
    def encode(self, text: Any, **options: Any) -> Any: ...
    def decode(self, token_ids: Any, **options: Any) -> Any: ...


class ChatTokens:
    """Turns chats into token ids. `end_id` closes an answer that ended by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end_id = self._find_end_id()

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> TokenIds:
        """The ids the engine reads before it answers `messages`. PromptRefused when the template cannot take them."""
        flat = [_flat(message) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(flat, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is the model's own program: it may raise anything
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise PromptRefused(
                f"the chat template cannot take these messages ({roles}): {type(error).__name__}: {error}"
            ) from error
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def answer(self, text: str) -> TokenIds:
        """The ids of a whole answer that a person wrote, the end token included.

        The name of a special token in it is text like any other: no answer says where a turn ends.
        """
        return (*self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True), self.end_id)

    def again(self) -> TokenIds:
        """The ids between one answer's end token and another answer right after it, as the template writes them."""
        asked: list[Message] = [{"role": "user", "content": _PROBE}]
        text = self._tokenizer.apply_chat_template(
            [*asked, {"role": "assistant", "content": _PROBE}], add_generation_prompt=True, tokenize=False
        )
        written = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        between = written[len(self.prompt(asked)) + len(self.answer(_PROBE)) :]
        if not between:
            raise ModelRefused(
                "the chat template opens no second answer; train a reward model that reads one at a time"
            )
        return between

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of an answer's ids, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def check_prompt(self, messages: Sequence[Mapping[str, Any]], engine_ids: Sequence[int], *, where: str) -> None:
        """TokenMismatch when the engine read other ids for `messages` than training would learn from."""
        ours = self.prompt(messages)
        if ours == tuple(engine_ids):
            return
        shared = zip(ours, engine_ids, strict=False)
        place = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(ours), len(engine_ids)))
        raise TokenMismatch(
            f"{where}: the engine read {len(engine_ids)} prompt tokens, training makes {len(ours)} of the same "
            f"messages, and they differ from position {place} on ({list(engine_ids[place : place + 4])} against "
            f"{list(ours[place : place + 4])}). Serve and train with the same tokenizer and chat template"
        )

    def check_end(self, answer_ids: Sequence[int], stops: Sequence[str | int], *, where: str) -> None:
        """EndMismatch when an answer that the engine did not cut ends in another token than `end_id`.

        One that stopped at a string or token of the caller's own (`stops`) is right without it.
        """
        found = answer_ids[-1]
        if found == self.end_id or found in stops or self._says_one(answer_ids, stops):
            return
        raise EndMismatch(
            f"{where}: the engine ended the answer with token {found} ({self._tokenizer.decode([found])!r}), the chat "
            f"template ends one with {self.end_id} ({self._tokenizer.decode([self.end_id])!r}). Serve and train with "
            "the same tokenizer and chat template, and with one end token for both"
        )

    def is_faithful(self, text: str, engine_ids: Sequence[int]) -> bool:
        """Whether `engine_ids` say `text`: an answer cut by a stop string holds more tokens than were shown.

        Of a character whose bytes were cut in two the engine shows nothing, and the ids a sign that it is broken.
        """
        return self.text(engine_ids).rstrip(_BROKEN).strip() == text.rstrip(_BROKEN).strip()

    def _says_one(self, answer_ids: Sequence[int], stops: Sequence[str | int]) -> bool:
        """Whether a stop string stands in the ids' text. Before the last token it would have ended the answer there."""
        strings = [stop for stop in stops if isinstance(stop, str)]
        told = [self.text(answer_ids), str(self._tokenizer.decode(list(answer_ids)))] if strings else []
        return any(string in text for string in strings for text in told)

    def _find_end_id(self) -> int:
        """The token the chat template writes after an answer."""
        opened = self.prompt([{"role": "user", "content": _PROBE}])
        closed = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}], tokenize=False
        )
        answered = tuple(self._tokenizer.encode(closed, add_special_tokens=False))
        body = tuple(self._tokenizer.encode(_PROBE, add_special_tokens=False))
        start = len(opened) + len(body)
        if answered[: len(opened)] != opened or answered[len(opened) : start] != body or len(answered) <= start:
            raise ModelRefused(
                "the chat template does not put an answer between its generation prompt and an end token; "
                "use a model whose template does"
            )
        return int(answered[start])


def _flat(message: Mapping[str, Any]) -> Message:
    """A message as vLLM hands it to the template: content as one string, "" for none; tool arguments as objects."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    texts = [str(part.get("text", "")) for part in parts if isinstance(part, Mapping)]
    if message.get("role") == "system":
        texts = [text for each in texts for text in _without_billing_header(each)]
    flat = {**message, "content": "\n".join(texts)}
    calls = flat.pop("tool_calls", None)
    return {**flat, "tool_calls": [_flat_call(call) for call in calls]} if calls else flat


def _without_billing_header(text: str) -> list[str]:
    """A system text without its first line where that is the header; nothing when only the header stood there."""
    if not text.startswith(_BILLING_HEADER):
        return [text]
    rest = text.partition("\n")[2]
    return [rest] if rest else []


def _flat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments, JSON text in OpenAI's format, as an object; {} for what is none."""
    function = call.get("function")
    if not isinstance(function, Mapping):
        return dict(call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    return {**call, "function": {**function, "arguments": arguments if isinstance(arguments, dict) else {}}}
