"""The three keys that a home always has: files made once, readable by their owner only, adopted into the key store."""

import os
from collections.abc import Mapping
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
    """The secret in `home/NAME.key`; made when absent, with mode 0600 from its first byte on."""
    path = home / f"{name}.key"
    home.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="utf-8").strip()
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        secret = new_secret()
        file.write(secret + "\n")
        return secret


def make_key_files(home: Path) -> None:
    """Makes those that are absent; they count once they are adopted."""
    for name in KEY_FILES:
        read_or_make(home, name)


def adopt_key_files(home: Path, store: KeyStore) -> None:
    """Enters the files' keys into the store; a key that was revoked stays revoked."""
    for name, scopes in KEY_FILES.items():
        store.adopt(read_or_make(home, name), name, scopes, HOME_TENANT)
