"""`GET /openapi.json`: every route as it is, made from the routes, the field table and `openapi_answers`.

The plain routes of chat and completions are described from the field table, all others by FastAPI. The page is the same
for everybody; the engine's context is in it as soon as the engine is known.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Response
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute, Route

from feedback.canary import CanaryRules
from serve.access.doors import PUBLIC, need_of, needs
from serve.openapi_answers import ANSWERS, Answers, components, or_null, ref
from serve.requests.field_pairs import CHAT_RULES, COMPLETION_RULES
from serve.requests.fields import CHAT_FIELDS, COMPLETION_FIELDS, Field, Treatment

_BEARER = {"type": "http", "scheme": "bearer", "description": "A key such as `bk-…`, which the operator gives out."}
_SAID = {
    400: "The request is not as it must be; `param` names the field.",
    401: "No key, or one that is unknown or revoked.",
    403: "The key lacks the scope.",
    404: "There is no such thing, or not for this key.",
    409: "It does not fit how things stand.",
    413: "The body is too long.",
    429: "Beyond the key's quota; `Retry-After` says when to come again.",
    502: "The engine failed at this request.",
    503: "Something is away or full for now; `Retry-After` says when to come again.",
}
_HEADERS = {"x-request-id": {"description": "Names this answer in the gateway's log.", "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
_VERSION = {"x-burnish-policy": {"description": "The version that answered.", "schema": {"type": "string"}}}


@dataclass(frozen=True)
class Bounds:
    """What a request may ask for here; `max_tokens` is None while the engine is not known."""

    max_n: int
    max_tokens: int | None = None


def openapi_route(routes: Callable[[], Iterable[BaseRoute]], bounds: Callable[[], Bounds]) -> Route:
    """The route itself; `routes` is asked at each call, because this one is among them."""

    @needs(PUBLIC)
    async def openapi(request: object) -> Response:
        """This description."""
        return Response(orjson.dumps(describe(routes(), bounds())), media_type="application/json")

    return Route("/openapi.json", openapi, methods=["GET"])


def describe(routes: Iterable[BaseRoute], bounds: Bounds) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    known = [route for route in routes if isinstance(route, Route)]
    document = get_openapi(title="Burnish", version="1", routes=known)
    paths: dict[str, Any] = document.setdefault("paths", {})
    for route in known:
        for method in sorted((route.methods or set()) - {"HEAD"}):
            at = paths.setdefault(route.path, {})
            at[method.lower()] = _operation(route, method.lower(), at.get(method.lower()))
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _say_what_pydantic_checks(schemas)
    schemas |= components()
    schemas["ChatRequest"] = request_schema(CHAT_FIELDS, CHAT_RULES, bounds)
    schemas["CompletionRequest"] = request_schema(COMPLETION_FIELDS, COMPLETION_RULES, bounds)
    schemas["OpenApi"] = {"type": "object", "required": ["openapi", "paths", "components"]}
    document["components"]["securitySchemes"] = {"key": _BEARER}
    document["paths"] = dict(sorted(paths.items()))
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document


def _say_what_pydantic_checks(schemas: dict[str, Any]) -> None:
    """What it checks and leaves out of its schemas: turns that differ, a canary's rules, text that is not all blank."""
    schemas["Comparison"]["properties"]["turn_ids"]["uniqueItems"] = True
    schemas["BeginCanary"]["properties"]["rules"] |= CanaryRules.model_json_schema()
    waiting: list[Any] = list(schemas.values())
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("type") == "string" and "minLength" in node:
                node.setdefault("pattern", r"\S")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def request_schema(table: Mapping[str, Field], rules: Iterable[Mapping[str, Any]], bounds: Bounds) -> dict[str, Any]:
    """The body of a completion request: every field of the table, nothing else, and what goes together."""
    required = [name for name in ("model", "messages", "prompt") if name in table]
    most = {"n": bounds.max_n, "max_tokens": bounds.max_tokens, "max_completion_tokens": bounds.max_tokens}
    properties = {}
    for name, field in sorted(table.items()):
        schema = _field_schema(field)
        if most.get(name) is not None:
            schema = {**schema, "maximum": most[name]}
        properties[name] = schema if name in required else _nullable(schema)
        if field.why or field.treatment is Treatment.refused:
            properties[name]["description"] = f"{field.treatment}: {field.why}"
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "allOf": [dict(rule) for rule in rules],
    }


def _field_schema(field: Field) -> dict[str, Any]:
    if field.treatment is Treatment.refused:
        return {"type": "null"}
    return dict(field.check.schema) if field.check else {}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if not schema or schema.get("type") == "null":
        return schema
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return or_null(schema)


def _operation(route: Route, method: str, made: dict[str, Any] | None) -> dict[str, Any]:
    """FastAPI's description of a route, or one of our own, with what every route has."""
    operation = made or {"summary": route.name, "operationId": f"{route.name}_{method}"}
    answers = ANSWERS.get(f"{method} {route.path}")
    if made is None and method == "post":
        name = "ChatRequest" if route.path.endswith("/chat/completions") else "CompletionRequest"
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref(name)}}}
        operation["tags"] = ["completions"]
    need = need_of(route)
    operation["security"] = [] if need == PUBLIC else [{"key": []}]
    if need != PUBLIC:
        operation["x-scope"] = str(need)
    responses = _responses(answers, streams=made is None and method == "post") if answers else operation["responses"]
    responses.pop("422", None)
    operation["responses"] = responses | {
        str(status): _error(status) for status in _errors(operation, answers, need != PUBLIC)
    }
    return operation


def _responses(answers: Answers, *, streams: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": ref(answers.of)}}
    if "/" in answers.of:
        content = {answers.of: {"schema": {"type": "string"}}}
    if streams:
        content["text/event-stream"] = {"schema": ref("Streamed")}
    headers = _HEADERS | (_VERSION if streams else {})
    return {str(status): {"description": "", "headers": headers, "content": content} for status in answers.statuses}


def _errors(operation: Mapping[str, Any], answers: Answers | None, guarded: bool) -> list[int]:
    """The statuses of a route's errors, but for those that it gives as a success too."""
    found = {401, 403, 503} if guarded else set()
    found |= set(answers.errors if answers else ())
    if "requestBody" in operation:
        found |= {400, 413}
    if operation.get("parameters"):
        found |= {400}
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        found |= {404}
    return sorted(found - set(answers.statuses if answers else ()))


def _error(status: int) -> dict[str, Any]:
    headers = _HEADERS | (_RETRY if status in (429, 503) else {})
    return {
        "description": _SAID[status],
        "headers": headers,
        "content": {"application/json": {"schema": ref("Error")}},
    }
