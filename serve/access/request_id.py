"""An id of our own on every answer, as OpenAI gives (pure ASGI: a streamed event passes through one plain call).

A caller's `X-Client-Request-Id` is theirs and is not echoed, as with OpenAI: it would let a caller write into headers
and logs.
"""

import secrets
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_KEY = "burnish.request_id"


class RequestId:
    """Draws an id, keeps it in the scope, and sends it with the answer's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        drawn = "req_" + secrets.token_hex(16)
        scope[_KEY] = drawn

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (HEADER, drawn.encode())]
            return send(message)

        await self.app(scope, receive, send_with_id)


def request_id(scope: Scope) -> str:
    """The id of the request, for what is logged or answered outside the middleware."""
    return str(scope.get(_KEY, "-"))
