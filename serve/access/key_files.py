"""The three keys that a home always has: files made once, readable by their owner only, adopted into the key store."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from feedback.access_keys import KeyStore, Scope, new_secret
from feedback.ids import TenantId

HOME_TENANT = TenantId("home")
KEY_FILES: Mapping[str, frozenset[Scope]] = {
    "operator": frozenset(Scope),
    "page": frozenset({Scope.chat, Scope.feedback}),
    "worker": frozenset({Scope.chat, Scope.operator}),
}


def read_or_make(home: Path, name: str) -> str:
    """The secret in `home/NAME.key`; made when absent, with mode 0600 from its first byte on.

    Of several that make it at once one wins, and all get its secret. OSError when the home cannot be written to.
    """
    path = home / f"{name}.key"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        _make(path, new_secret())
    return path.read_text(encoding="utf-8").strip()


def _make(path: Path, secret: str) -> None:
    """Writes the file unless it is there. It gets its name when it is whole: a kill on the way leaves no empty key."""
    handle, unnamed = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(handle)
        with suppress(FileExistsError):
            os.link(unnamed, path)
    finally:
        os.unlink(unnamed)


def make_key_files(home: Path) -> None:
    """Makes those that are absent; they count once they are adopted."""
    for name in KEY_FILES:
        read_or_make(home, name)


def adopt_key_files(home: Path, store: KeyStore) -> None:
    """Enters the files' keys into the store; a key that was revoked stays revoked."""
    for name, scopes in KEY_FILES.items():
        store.adopt(read_or_make(home, name), name, scopes, HOME_TENANT)
