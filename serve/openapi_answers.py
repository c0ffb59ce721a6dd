"""What the routes answer with, in JSON Schema: the components of `openapi`, and which route gives which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from feedback.jobs import Job
from feedback.policies import Policy
from feedback.registry import AuditEntry
from serve.error_pages import KINDS

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
OBJECT = {"type": "object"}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


def or_null(schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def made_of(optional: Mapping[str, Any] | None = None, **required: Any) -> dict[str, Any]:
    """An object with these properties; others may stand beside them."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _listed(item: Any) -> dict[str, Any]:
    return made_of(object={"const": "list"}, data=list_of(item))


_HEAD = {"id": TEXT, "created": COUNT, "model": TEXT, "system_fingerprint": TEXT}
_TOKENS = {"prompt_token_ids": or_null(list_of(COUNT))}
_CHOICE = {"index": COUNT, "finish_reason": or_null(TEXT), "logprobs": or_null(OBJECT)}
_FUNCTION = made_of(name=TEXT, arguments=TEXT)
_MESSAGE = made_of(
    {"content": or_null(TEXT), "refusal": or_null(TEXT), "tool_calls": list_of(ref("ToolCall"))},
    role={"const": "assistant"},
)


def _answer(kind: str, choice: Any) -> dict[str, Any]:
    return made_of(_TOKENS, **_HEAD, object={"const": kind}, choices=list_of(choice), usage=ref("Usage"))


_OWN: dict[str, Any] = {
    "Error": made_of(
        error={
            **made_of(message={**TEXT, "minLength": 1}, type=TEXT, param=or_null(TEXT), code=or_null(TEXT)),
            "additionalProperties": False,
        }
    ),
    "Usage": made_of(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    "ToolCall": made_of(id=TEXT, type={"const": "function"}, function=_FUNCTION),
    "ChatCompletion": _answer("chat.completion", made_of(index=COUNT, message=_MESSAGE, finish_reason=or_null(TEXT))),
    "Completion": _answer("text_completion", made_of(index=COUNT, text=TEXT, finish_reason=or_null(TEXT))),
    "Model": made_of(
        {"parent": or_null(TEXT), "root": TEXT, "max_model_len": COUNT},
        id=TEXT,
        object={"const": "model"},
        created=COUNT,
        owned_by=TEXT,
    ),
    "Models": _listed(ref("Model")),
    "Turn": made_of(
        id=TEXT,
        object={"const": "turn"},
        created_at=NUMBER,
        session=or_null(TEXT),
        user=or_null(TEXT),
        model=TEXT,
        kind={"enum": ["chat", "completion"]},
        messages=list_of(OBJECT),
        prompt=or_null(TEXT),
        answer=TEXT,
        finish_reason=or_null(TEXT),
        token_ids=list_of(COUNT),
        sampling=OBJECT,
    ),
    "Turns": _listed(ref("Turn")),
    "Event": made_of(
        id=TEXT, object={"const": "feedback"}, created_at=NUMBER, kind={"enum": list(KINDS)}, user=or_null(TEXT)
    ),
    "Events": _listed(ref("Event")),
    "Standing": made_of(live=TEXT, previous=or_null(TEXT), epoch=COUNT),
    "PolicyOnShelf": {
        "allOf": [ref("Policy"), made_of(load=or_null(made_of(state=TEXT, error=or_null(TEXT))))],
    },
    "Policies": {
        "allOf": [ref("Standing"), made_of(line=TEXT, policies=list_of(ref("PolicyOnShelf")))],
    },
    "Imported": {"allOf": [ref("Policy"), made_of(already={"type": "boolean"})]},
    "Canary": made_of({"over": TEXT, "started_at": NUMBER, "rules": OBJECT, "decision": OBJECT}, canary=or_null(TEXT)),
    "Audit": made_of(audit=list_of(ref("AuditEntry"))),
    "Jobs": made_of(jobs=list_of(ref("Job"))),
    "JobWithCurve": {"allOf": [ref("Job"), made_of(curve=list_of(OBJECT))]},
    "Schedule": made_of(train={"type": "boolean"}, reasons=list_of(TEXT), new=COUNT, needed=COUNT),
    "Progress": made_of(new=COUNT, needed=COUNT, training={"type": "boolean"}),
    "Health": made_of(status={"const": "ok"}),
    "Readiness": made_of(status={"enum": ["ready", "waiting"]}, missing=list_of(TEXT)),
    "Streamed": {
        **made_of(data=TEXT),
        "description": "Each server-sent event: `data: {…}` in the shape of OpenAI's chunks, then `data: [DONE]`. A "
        'failure after the first event is an event `data: {"error": {…}}`, and no `[DONE]` follows it.',
    },
}


def components() -> dict[str, Any]:
    """Every schema by its name; those of stored rows are their models' own."""
    models = [(model, "serialization") for model in (Policy, Job, AuditEntry)]
    _, theirs = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return {**theirs["$defs"], **_OWN}


@dataclass(frozen=True)
class Answers:
    """What a route gives when it succeeds (a component's name, or a media type that is no JSON), and its errors."""

    of: str
    statuses: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()


ANSWERS: Mapping[str, Answers] = {
    "post /v1/chat/completions": Answers("ChatCompletion", errors=(404, 429, 502, 503)),
    "post /v1/completions": Answers("Completion", errors=(404, 429, 502, 503)),
    "get /v1/models": Answers("Models", errors=(503,)),
    "get /v1/models/{model}": Answers("Model", errors=(503,)),
    "post /v1/feedback": Answers("Event", (201, 200), errors=(404, 409, 503)),
    "get /v1/feedback": Answers("Events", errors=(404, 503)),
    "get /v1/turns": Answers("Turns", errors=(503,)),
    "get /v1/turns/{turn_id}": Answers("Turn", errors=(503,)),
    "get /v1/progress": Answers("Progress", errors=(503,)),
    "get /operator/policies": Answers("Policies", errors=(503,)),
    "get /operator/policies/{version}": Answers("PolicyOnShelf", errors=(503,)),
    "post /operator/policies": Answers("Imported", (201, 200), errors=(409, 502, 503)),
    "get /operator/canary": Answers("Canary", errors=(503,)),
    "post /operator/policies/{version}/canary": Answers("Standing", errors=(409, 503)),
    "post /operator/policies/{version}/retire": Answers("Standing", errors=(409, 503)),
    "post /operator/policies/{version}/promote": Answers("Standing", errors=(409, 503)),
    "post /operator/policies/{version}/withdraw": Answers("Standing", errors=(409, 503)),
    "post /operator/rollback": Answers("Standing", errors=(409, 503)),
    "get /operator/audit": Answers("Audit", errors=(503,)),
    "get /operator/jobs": Answers("Jobs", errors=(503,)),
    "post /operator/jobs": Answers("Job", (201, 200), errors=(409, 503)),
    "get /operator/jobs/{job_id}": Answers("JobWithCurve", errors=(503,)),
    "post /operator/jobs/{job_id}/cancel": Answers("Job", errors=(409, 503)),
    "get /operator/schedule": Answers("Schedule", errors=(503,)),
    "get /healthz": Answers("Health"),
    "get /readyz": Answers("Readiness", (200, 503)),
    "get /metrics": Answers("text/plain"),
    "get /openapi.json": Answers("OpenApi"),
}
