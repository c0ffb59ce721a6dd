"""Who a browser is: a random name in a signed, HttpOnly cookie, made on the first visit.

The name is the `user` of everything said from that browser. The secret lives in the home folder, so that people
keep their conversations over restarts.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from itsdangerous import BadSignature, URLSafeSerializer

from ui.errors import UnknownVisitor

COOKIE = "burnish_visitor"
LIFETIME_S = 400 * 24 * 3600
_SALT = "burnish visitor"


def load_secret(path: Path) -> bytes:
    """The secret in `path`, made (0600, whole or not at all) when absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    if not path.exists():
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another process was first: its secret counts
            os.link(fresh, path)
        fresh.unlink()
    secret = path.read_bytes().strip()
    if len(secret) < 32:
        raise ValueError(f"{path} holds {len(secret)} bytes, too few for a secret; delete it and start again")
    return secret


class Visitors:
    """Signs and reads visitor cookies."""

    def __init__(self, secret: bytes, *, secure: bool = False) -> None:
        self._serializer = URLSafeSerializer(secret, salt=_SALT)
        self._secure = secure

    def name_in(self, cookies: Mapping[str, str]) -> str:
        """The visitor's name; UnknownVisitor when the cookie is missing or not ours."""
        try:
            name = self._serializer.loads(cookies.get(COOKIE, ""))
        except BadSignature as error:
            raise UnknownVisitor(COOKIE) from error
        if not isinstance(name, str) or not name:
            raise UnknownVisitor(COOKIE)
        return name

    def knows(self, cookies: Mapping[str, str]) -> bool:
        try:
            self.name_in(cookies)
        except UnknownVisitor:
            return False
        return True

    def new_cookie(self) -> str:
        """A Set-Cookie value for a new visitor. Lax: other sites' forms and scripts do not carry it."""
        name = f"visitor-{secrets.token_hex(12)}"
        secure = "; Secure" if self._secure else ""
        return f"{COOKIE}={self._serializer.dumps(name)}; Path=/; Max-Age={LIFETIME_S}; HttpOnly; SameSite=Lax{secure}"
