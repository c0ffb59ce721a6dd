"""What the gateway refuses or cannot do, as one tree, and the OpenAI shape in which a caller reads it.

`error_body` is the only place that shape is written. `feedback`'s errors are translated here, once.
"""

from collections.abc import Mapping
from typing import Literal

import orjson

from feedback.errors import (
    FeedbackError,
    IdempotencyConflict,
    LedgerUnavailable,
    MoveRefused,
    NotEnoughVotes,
    StaleRegistry,
    StatementRefused,
    UnknownEvent,
    UnknownJob,
    UnknownPolicy,
    UnknownTurn,
)

INVALID = "invalid_request_error"
SERVER = "server_error"


class ApiError(Exception):
    """Anything a caller gets instead of an answer. Subclasses fix the status, the type and a usual code."""

    status: int = 500
    type: str = SERVER
    code: str | None = None
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class BadRequest(ApiError):
    status, type = 400, INVALID


class NotAuthenticated(ApiError):
    status, type, code = 401, INVALID, "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(ApiError):
    status, type, code = 403, "permission_error", "missing_scope"


class NotFound(ApiError):
    status, type, code = 404, INVALID, "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(ApiError):
    status, type = 409, INVALID


class BodyTooLarge(ApiError):
    status, type, code = 413, INVALID, "body_too_large"


class HeadTooLarge(ApiError):
    status, type, code = 431, INVALID, "headers_too_large"


class TooManyRequests(ApiError):
    """The key's limit is reached. As with OpenAI the type names what is limited, and one that never fits is 429 too.

    For such a one there is no time to wait: OpenAI's clients, which send a 429 again by themselves, are told not to.
    """

    status, code = 429, "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        kind: Literal["requests", "tokens"],
        headers: Mapping[str, str],
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.type = kind
        self.retry_after_s = retry_after_s
        self._limit_headers = headers

    @property
    def headers(self) -> dict[str, str]:
        again = {"x-should-retry": "false"} if self.retry_after_s is None else super().headers
        return {**self._limit_headers, **again}


class Unavailable(ApiError):
    """Something the request needs is away for now; the same request may be sent again."""

    status, type, code, retry_after_s = 503, SERVER, "unavailable", 1


class TurnQueued(Unavailable):
    """The turn was answered, but is not in the ledger yet."""

    code = "turn_queued"

    def __init__(self, turn_id: str, *, param: str) -> None:
        super().__init__(f"the turn {turn_id!r} is being recorded; send the request again", param=param)


class AtCapacity(Unavailable):
    """As many answers are being written as the engine is given at once."""

    code = "at_capacity"


class EngineUnavailable(Unavailable):
    code, retry_after_s = "engine_unavailable", 5


class EngineRefused(ApiError):
    """The engine's own 4xx, in OpenAI's shape."""

    type = INVALID

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status


class EngineFailed(ApiError):
    status, type, code = 502, SERVER, "engine_failed"


_FROM_FEEDBACK: dict[type[FeedbackError], tuple[type[ApiError], str | None]] = {
    LedgerUnavailable: (Unavailable, "ledger_unavailable"),
    UnknownTurn: (NotFound, "turn_not_found"),
    UnknownEvent: (NotFound, "event_not_found"),
    UnknownPolicy: (ModelNotFound, None),
    UnknownJob: (NotFound, "job_not_found"),
    StatementRefused: (BadRequest, "statement_refused"),
    IdempotencyConflict: (Conflict, "idempotency_conflict"),
    MoveRefused: (Conflict, "move_refused"),
    StaleRegistry: (Conflict, "stale_registry"),
    NotEnoughVotes: (Conflict, "not_enough_votes"),
}


def from_feedback(error: FeedbackError) -> ApiError:
    """The error a caller gets for one of the ledger's."""
    for kind in type(error).__mro__:
        if kind in _FROM_FEEDBACK:
            api_error, code = _FROM_FEEDBACK[kind]
            return api_error(str(error), code=code)
    return ApiError("the ledger failed; the operator's log says more")


def error_body(error: ApiError) -> bytes:
    """`{"error": {message, type, param, code}}` as OpenAI's clients read it."""
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    try:
        return orjson.dumps({"error": told})
    except orjson.JSONEncodeError:
        # A message may quote half a character, which JSON's escapes can write and UTF-8 cannot.
        plain = {key: value and value.encode("utf-8", "backslashreplace").decode() for key, value in told.items()}
        return orjson.dumps({"error": plain})


def error_headers(error: ApiError) -> Mapping[str, str]:
    return {"content-type": "application/json", **error.headers}
