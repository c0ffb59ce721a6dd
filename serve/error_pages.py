"""Every way a request can fail inside the app, answered in OpenAI's error shape; installed once by `app`."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from feedback.errors import FeedbackError
from serve.access.request_id import HEADER, request_id
from serve.errors import ApiError, BadRequest, error_body, error_headers, from_feedback

log = logging.getLogger(__name__)
KINDS = ("rating", "comparison", "edit", "aspect", "retract")


def install_error_pages(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(FeedbackError, _feedback_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unforeseen)


def error_response(error: ApiError) -> Response:
    return Response(error_body(error), status_code=error.status, headers=dict(error_headers(error)))


def validation_message(errors: Sequence[Any]) -> tuple[str, str | None]:
    """Pydantic's findings as one sentence, and the name of the first field at fault."""
    parts: list[str] = []
    for finding in errors[:5]:
        got = "" if finding["type"] in ("missing", "json_invalid") else f" (got {_short(finding.get('input'))})"
        parts.append(f"{_where(finding) or 'the body'}: {finding['msg']}{got}")
    return "; ".join(parts), _where(errors[0]) or None


def _where(finding: Any) -> str:
    """The field's name, without where it was sent and without the kind of statement pydantic names before it."""
    steps = [str(step) for step in finding["loc"]]
    if steps[:1] in (["body"], ["query"], ["path"], ["header"]):
        steps = steps[1:]
    return ".".join(steps[1:] if steps[:1] and steps[0] in KINDS else steps)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _feedback_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FeedbackError)
    return error_response(from_feedback(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    message, param = validation_message(error.errors())
    return error_response(BadRequest(message, param=param))


async def _http_error(request: Request, error: Exception) -> Response:
    """404 of an unknown path, 405, and whatever else Starlette raises by itself."""
    assert isinstance(error, HTTPException)
    known = {
        404: f"no such path: {request.scope['path']!r}",
        405: f"{request.method} is not allowed here",
    }
    wrong = BadRequest(known.get(error.status_code, str(error.detail)))
    wrong.status = error.status_code
    response = error_response(wrong)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """The methods of all routes with this path: Starlette names those of the first alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = {
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return sorted(found)


async def _gone(request: Request, error: Exception) -> Response:
    """The caller left before the body was whole: nobody reads this, and it is no fault of ours."""
    return Response(status_code=400)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """A fault of ours: logged whole by the server, told to the caller without its insides."""
    named = request_id(request.scope)
    log.error("unforeseen failure of %s %s, %s", request.method, request.scope["path"], named, exc_info=error)
    response = error_response(ApiError("the gateway failed at this request; its log says more"))
    response.headers[HEADER.decode()] = named
    return response
