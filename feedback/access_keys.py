"""API keys: made once, shown once, kept hashed."""

import hashlib
import re
import secrets
import time
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from feedback.connection import Client, translated
from feedback.errors import TenantRefused, UnknownKey
from feedback.ids import KeyId, TenantId, new_key_id
from feedback.keyspace import KEYS, KEYS_EPOCH
from feedback.quota import UNLIMITED, KeyLimits

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Scope(StrEnum):
    """What a key may do: ask the model, say what one thinks of answers, steer everything."""

    chat = "chat"
    feedback = "feedback"
    operator = "operator"


class ApiKey(BaseModel):
    """A key as the ledger keeps it: the SHA-256 (hex) of its secret, never the secret. Times are Unix seconds.

    Limits hold for any 60 seconds; None is no limit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: KeyId
    name: str
    tenant: TenantId
    scopes: frozenset[Scope]
    secret_digest: str
    created_at: float
    revoked_at: float | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits(self.requests_per_minute, self.tokens_per_minute)


def new_secret() -> str:
    """A fresh secret of 256 random bits, in the form that `Authorization: Bearer` carries."""
    return "bk-" + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """How a secret is kept. One plain hash is enough, since a secret is random and long."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyStore:
    """The API keys of all lines. LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def make(
        self, name: str, scopes: frozenset[Scope], tenant: TenantId, limits: KeyLimits = UNLIMITED
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which cannot be shown again. TenantRefused as `adopt` does."""
        secret = new_secret()
        return self._enter(secret, name, scopes, tenant, limits), secret

    def adopt(self, secret: str, name: str, scopes: frozenset[Scope], tenant: TenantId) -> ApiKey:
        """Enters a secret made elsewhere; one that is known already keeps its key, revoked or not.

        TenantRefused when a new key's tenant is not 1 to 64 letters, digits, dots, hyphens and underscores.
        """
        digest = digest_of(secret)
        known = next((key for key in self.all() if key.secret_digest == digest), None)
        return known or self._enter(secret, name, scopes, tenant, UNLIMITED)

    def _enter(self, secret: str, name: str, scopes: frozenset[Scope], tenant: TenantId, limits: KeyLimits) -> ApiKey:
        if not _TENANT.fullmatch(tenant):
            raise TenantRefused(
                f"{tenant!r} cannot be a tenant's name; use 1 to 64 of the characters A-Z a-z 0-9 . _ -"
            )
        key = ApiKey(
            id=new_key_id(),
            name=name,
            tenant=tenant,
            scopes=scopes,
            secret_digest=digest_of(secret),
            created_at=time.time(),
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )
        self._put(key)
        return key

    def revoke(self, key_id: KeyId) -> ApiKey:
        """Takes a key back for good. UnknownKey when there is none of that id."""
        key = next((key for key in self.all() if key.id == key_id), None)
        if key is None:
            raise UnknownKey(f"there is no key {key_id!r}; see the list of keys")
        revoked = key.model_copy(update={"revoked_at": key.revoked_at or time.time()})
        self._put(revoked)
        return revoked

    def all(self) -> list[ApiKey]:
        """Every key, revoked ones too, oldest first."""
        with translated():
            rows = self._client.hvals(KEYS)
        return sorted(
            (ApiKey.model_validate_json(row) for row in rows),
            key=lambda key: key.created_at,
        )

    def epoch(self) -> int:
        """Grows with every change: cheap to poll."""
        with translated():
            return int(self._client.get(KEYS_EPOCH) or 0)

    def _put(self, key: ApiKey) -> None:
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.hset(KEYS, key.id, key.model_dump_json())
            pipe.incr(KEYS_EPOCH)
            pipe.execute()
