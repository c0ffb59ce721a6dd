"""From a caller's body to what the engine is asked, and back to what the turn remembers of it. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from feedback.ids import TenantId, TurnId, UserId
from feedback.turns import Turn, prompt_key
from serve.errors import BadRequest, Forbidden, NotFound
from serve.requests.field_checks import whole, wrong
from serve.requests.field_pairs import refuse_misfits
from serve.requests.fields import CHAT_FIELDS, COMPLETION_FIELDS, Field, Treatment

Kind = Literal["chat", "completion"]
# Deeper than any JSON schema in use, and far from the 200 levels at which a recorded turn could not be read again.
MAX_NESTING = 32


@dataclass(frozen=True)
class Limits:
    """`max_tokens` is the model's context length; a request that names no limit may use what its prompt leaves."""

    max_n: int
    max_tokens: int


@dataclass(frozen=True)
class Asked:
    """One request, checked. `engine_fields` are everything the engine gets besides prompt, model and stream."""

    kind: Kind
    model: str
    messages: tuple[dict[str, Any], ...]
    prompt: str | list[int] | None
    engine_fields: Mapping[str, Any]
    n: int
    stream: bool
    wants_token_ids: bool
    user: UserId | None
    session: str | None
    store: bool
    compare_with: TurnId | None
    may_duel: bool = False

    @property
    def sampling(self) -> dict[str, Any]:
        table = CHAT_FIELDS if self.kind == "chat" else COMPLETION_FIELDS
        return {k: v for k, v in self.engine_fields.items() if k == "max_tokens" or table[k].sampling}

    @property
    def _greedy_choices(self) -> dict[str, Any]:
        """What several choices at temperature 0 are asked by: the engine refuses that temperature for more than one."""
        several = self.n > 1 and self.engine_fields.get("temperature") == 0
        return {"temperature": 1, "top_k": 1} if several else {}

    def engine_body(self, engine_model: str, tenant: TenantId) -> bytes:
        """The engine's body; token ids are always asked for, because the turn keeps them.

        The engine reuses a prompt's computed prefix only under the same salt: a tenant could else learn from an
        answer's speed what another one has asked.
        """
        body: dict[str, Any] = {
            **self.engine_fields,
            **self._greedy_choices,
            "model": engine_model,
            "n": self.n,
            "stream": self.stream,
            "return_token_ids": True,
            "cache_salt": cache_salt(tenant),
        }
        if self.kind == "chat":
            body["messages"] = self.messages
        else:
            body["prompt"] = self.prompt
        return orjson.dumps(body)


def cache_salt(tenant: TenantId) -> str:
    """What keeps a tenant's cached prompts apart in the engine: the same for each of its requests (hex)."""
    return hashlib.sha256(f"burnish cache {tenant}".encode()).hexdigest()


def parse_request(raw: bytes, kind: Kind, limits: Limits, *, operator: bool = False) -> Asked:
    """Checks a body field by field, then which of them go together.

    BadRequest names the field, quotes the value and says what it must be.
    Forbidden for callers who are no operators and use a field that is for operators.
    """
    body = _body_object(raw)
    table = CHAT_FIELDS if kind == "chat" else COMPLETION_FIELDS
    given = {name: _checked(name, value, table, operator=operator) for name, value in body.items()}
    for name in ("model", "messages" if kind == "chat" else "prompt"):
        if given.get(name) is None:
            _checked_by(table[name], name, None)
    given = {name: value for name, value in given.items() if value is not None}
    refuse_misfits(given)
    engine_fields = {name: value for name, value in given.items() if table[name].treatment is Treatment.sent}
    engine_fields |= _token_limit(given, limits)
    metadata = given.get("metadata", {})
    compare_with = metadata.get("compare_with")
    return Asked(
        kind=kind,
        model=given["model"],
        messages=given.get("messages", ()),
        prompt=_short_enough(given.get("prompt"), limits),
        engine_fields=engine_fields,
        n=whole(1, limits.max_n)("n", given.get("n", 1)),
        stream=given.get("stream", False),
        wants_token_ids=given.get("return_token_ids", False),
        user=given.get("user", given.get("safety_identifier")),
        session=metadata.get("session"),
        store=given.get("store", True),
        compare_with=None if compare_with is None else TurnId(compare_with),
        may_duel=_may_duel(metadata),
    )


def as_second_answer(asked: Asked, first: Turn) -> Asked:
    """The request as a second answer to `first`'s prompt: same person, same prompt, same sampling, another seed.

    Settings that the request leaves out are taken from the first turn, all but the seed.
    """
    if asked.user is not None and asked.user != first.user:
        raise NotFound(f"no turn {first.id!r}", param="metadata.compare_with", code="turn_not_found")
    if asked.kind != first.kind or not _same_prompt(asked, first):
        raise BadRequest(
            f"metadata.compare_with names {first.id!r}, which answered another prompt; send the same messages",
            param="metadata.compare_with",
        )
    for name, value in asked.sampling.items():
        if name == "seed":
            if first.sampling.get("seed") == value:
                raise wrong("seed", value, f"another than that of {first.id!r}, or both answers would be the same")
        elif first.sampling.get(name) != value:
            raise wrong(name, value, f"{first.sampling.get(name)!r}, as in {first.id!r}, or left out")
    inherited = {name: value for name, value in first.sampling.items() if name != "seed"}
    return replace(asked, user=asked.user or first.user, engine_fields={**inherited, **asked.engine_fields})


def _same_prompt(asked: Asked, first: Turn) -> bool:
    if asked.kind == "chat":
        return prompt_key(asked.messages) == prompt_key(first.messages)
    if isinstance(asked.prompt, list):
        return tuple(asked.prompt) == first.prompt_token_ids
    return asked.prompt == first.prompt


def _body_object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if type(body) is not dict:
        raise BadRequest(f"the body is a JSON {type(body).__name__}; it must be an object")
    for name, value in body.items():
        if _is_nested_beyond(MAX_NESTING, value):
            raise BadRequest(f"{name[:80]} is nested deeper than {MAX_NESTING} levels", param=name[:80])
    return body


def _is_nested_beyond(most: int, value: Any) -> bool:
    """Whether lists and objects stand in each other more than `most` deep. Goes level by level: recursion would end."""
    level = [value]
    for _ in range(most + 1):
        level = [outer for outer in level if type(outer) in (dict, list)]
        if not level:
            return False
        level = [inner for outer in level for inner in (outer.values() if type(outer) is dict else outer)]
    return True


def _checked(name: str, value: Any, table: Mapping[str, Field], *, operator: bool) -> Any:
    """The value in the form to go on with, or None for what is left out or changes nothing."""
    field = table.get(name)
    if field is None:
        raise BadRequest(f"unknown field {name[:80]!r}; leave it out", param=name[:80], code="unknown_parameter")
    if value is None:
        return None
    if field.treatment is Treatment.refused:
        raise BadRequest(f"{name} is refused: {field.why}", param=name, code="unsupported_parameter")
    value = _checked_by(field, name, value)
    if field.operators and value != 0 and not operator:
        wanted = f"without the scope 'operator' it must be 0 or left out: {field.why}"
        raise Forbidden(f"{name} is {value}; {wanted}", param=name)
    return None if field.treatment is Treatment.ignored else value


def _checked_by(field: Field, name: str, value: Any) -> Any:
    return value if field.check is None else field.check(name, value)


def _may_duel(metadata: dict[str, str]) -> bool:
    wish = metadata.get("duel")
    if wish not in (None, "allow"):
        raise wrong("metadata.duel", wish, '"allow", or left out')
    return wish is not None


def _token_limit(given: Mapping[str, Any], limits: Limits) -> dict[str, int]:
    name = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    if name not in given:
        return {}
    most = whole(0, limits.max_tokens)(name, given[name])
    at_least = {"min_tokens": min(given["min_tokens"], most)} if "min_tokens" in given else {}
    return {"max_tokens": most, **at_least}


def _short_enough(prompt: str | list[int] | None, limits: Limits) -> str | list[int] | None:
    if type(prompt) is list and len(prompt) > limits.max_tokens:
        raise BadRequest(
            f"the prompt has {len(prompt)} tokens; the model reads {limits.max_tokens}",
            param="prompt",
            code="context_length_exceeded",
        )
    return prompt
