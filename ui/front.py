"""What every request passes on its way in: the visitor's cookie, the security headers, and the closed doors.

Gradio serves far more than this page uses (uploads, files, proxies, a call API). Only what the page needs is open.
"""

import re
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.visitor import Visitors

_PREFIX = r"(?:/status)?"
_OPEN = re.compile(
    rf"{_PREFIX}/?|{_PREFIX}/config/?|{_PREFIX}/theme\.css|{_PREFIX}/(?:assets|static)/.+|/favicon\.ico|/robots\.txt"
    rf"|{_PREFIX}/manifest\.json|{_PREFIX}/gradio_api/(?:queue/(?:join|data)|heartbeat/[^/]+|startup-events)"
    rf"|{_PREFIX}/gradio_api/(?:reset/?|cancel|theme\.css)|/healthz"
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
MOST_BYTES = 1024 * 1024


class Front:
    """ASGI middleware around the whole page."""

    def __init__(self, app: ASGIApp, visitors: Visitors) -> None:
        self._app = app
        self._visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not _OPEN.fullmatch(scope["path"]):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return
        if int(headers.get("content-length") or 0) > MOST_BYTES:
            await PlainTextResponse(f"The body is larger than {MOST_BYTES} bytes", 413)(scope, receive, send)
            return
        cookie = None
        if scope["method"] == "GET" and not self._visitors.knows(_cookies(headers)):
            cookie = self._visitors.new_cookie()

        async def send_dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out[name] = value
                if cookie is not None and out.get("content-type", "").startswith("text/html"):
                    out.append("Set-Cookie", cookie)
            await send(message)

        await self._app(scope, receive, send_dressed)


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}
