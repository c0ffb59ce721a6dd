"""Refuses bodies above a limit before they are read (pure ASGI: nothing is added to a streamed answer's path)."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError, BadRequest, BodyTooLarge, error_body, error_headers

_DIGITS = re.compile(rb"[0-9]{1,18}")


class BodyLimit:
    """413 by the declared length at once, or as soon as a body that declares none has grown too long."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = [value for name, value in scope["headers"] if name == b"content-length"]
        if not declared:
            await self._count(scope, receive, send)
        elif len(declared) > 1 or not _DIGITS.fullmatch(declared[0]):
            await _answer(send, BadRequest("the Content-Length header must be one whole number"))
        elif int(declared[0]) > self.max_bytes:
            await self._refuse(send)
        else:
            await self.app(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A chunked body: the answer is sent from here, and the app sees a caller who went away."""
        seen_bytes = 0
        refused = False

        async def counting_receive() -> Message:
            nonlocal seen_bytes, refused
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes <= self.max_bytes:
                return message
            if not refused:
                refused = True
                await self._refuse(send)
            return {"type": "http.disconnect"}

        async def send_unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self.app(scope, counting_receive, send_unless_refused)

    async def _refuse(self, send: Send) -> None:
        error = BodyTooLarge(
            f"the body is longer than {self.max_bytes} bytes; send less, or raise BURNISH_GATEWAY_MAX_BODY_BYTES"
        )
        await _answer(send, error)


async def _answer(send: Send, error: ApiError) -> None:
    content = error_body(error)
    headers = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    headers += [(b"content-length", b"%d" % len(content)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
