"""Who a caller is and what they may do: bearer keys checked from memory, and a door before every route.

`hang_doors` refuses to build an app in which a route declares no scope, so that nothing is open by oversight.
The keys themselves are kept by `feedback.access_keys` and brought here by `ledger_watch`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fastapi import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from feedback.access_keys import ApiKey, digest_of
from feedback.access_keys import Scope as KeyScope
from feedback.ids import KeyId, TenantId
from feedback.quota import UNLIMITED, KeyLimits
from serve.errors import Forbidden, NotAuthenticated, Unavailable

PUBLIC: Final = "public"
_NEEDS = "_burnish_needs"
_CALLER = "burnish.caller"
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Caller:
    key_id: KeyId
    tenant: TenantId
    scopes: frozenset[KeyScope]
    limits: KeyLimits = UNLIMITED

    @property
    def is_operator(self) -> bool:
        return KeyScope.operator in self.scopes


@dataclass
class KeyRing:
    """The callers whose keys are valid now, by the digest of their secret; None until the keys were read once."""

    callers: Mapping[str, Caller] | None = None

    def replace(self, keys: Iterable[ApiKey]) -> None:
        self.callers = {
            key.secret_digest: Caller(key.id, key.tenant, key.scopes, key.limits)
            for key in keys
            if key.revoked_at is None
        }

    def caller(self, scope: Scope) -> Caller:
        """The caller named by the Authorization header; NotAuthenticated says what is wrong with it."""
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if not headers:
            raise NotAuthenticated("no API key: send one as `Authorization: Bearer bk-…`")
        if len(headers) > 1:
            # A proxy before us may have looked at another one of them.
            raise NotAuthenticated(f"{len(headers)} Authorization headers; send one")
        kind, _, secret = headers[0].decode("latin-1").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise NotAuthenticated("the Authorization header must be `Bearer bk-…`")
        if self.callers is None:
            raise Unavailable("the keys are not read yet; try again", code="ledger_unavailable")
        caller = self.callers.get(digest_of(secret.strip()))
        if caller is None:
            raise NotAuthenticated("this API key is unknown or revoked; ask the operator for another")
        return caller


def needs(scope: KeyScope | str) -> Callable[[Endpoint], Endpoint]:
    """Marks an endpoint with the scope its callers must hold, or PUBLIC."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _NEEDS, scope)
        return endpoint

    return mark


def need_of(route: BaseRoute) -> KeyScope | str | None:
    """The scope a route declares; None where it declares nothing."""
    declared: KeyScope | str | None = getattr(getattr(route, "endpoint", None), _NEEDS, None)
    return declared


def hang_doors(routes: Iterable[BaseRoute], ring: KeyRing) -> None:
    """Puts a door before every route; a route that declares no scope is an error at start."""
    for route in routes:
        need = need_of(route)
        if need is None or not isinstance(route, Route):
            raise RuntimeError(f"{route!r} declares no scope: mark its endpoint with serve.access.doors.needs")
        if need != PUBLIC:
            route.app = _Door(route.app, KeyScope(need), ring)


def caller_of(request: Request) -> Caller:
    """The caller the door let in."""
    caller: Caller = request.scope[_CALLER]
    return caller


class _Door:
    def __init__(self, app: ASGIApp, need: KeyScope, ring: KeyRing) -> None:
        self.app = app
        self.need = need
        self.ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self.ring.caller(scope)
        if self.need not in caller.scopes:
            raise Forbidden(f"this key lacks the scope {self.need.value!r}; it has {sorted(caller.scopes)}")
        scope[_CALLER] = caller
        await self.app(scope, receive, send)
