"""Identifiers of the ledger, as distinct types, each with the one way to make a new one."""

import secrets
from typing import NewType

TurnId = NewType("TurnId", str)
EventId = NewType("EventId", str)
JobId = NewType("JobId", str)
Version = NewType("Version", str)
UserId = NewType("UserId", str)
TenantId = NewType("TenantId", str)
LineName = NewType("LineName", str)
KeyId = NewType("KeyId", str)
Lesson = NewType("Lesson", str)

BASE_VERSION = Version("v0000-base")
"""The bare base model: always there, never deleted."""


def new_turn_id(kind: str = "chat") -> TurnId:
    """A fresh turn id, in the form OpenAI gives its responses (`chatcmpl-…` or `cmpl-…`)."""
    prefix = "chatcmpl" if kind == "chat" else "cmpl"
    return TurnId(f"{prefix}-{secrets.token_hex(14)}")


def choice_turn_id(first: TurnId, index: int) -> TurnId:
    """The turn id of choice `index` of the response `first`: the id itself for 0, `ID.k` for choice k."""
    return first if index == 0 else TurnId(f"{first}.{index}")


def new_event_id() -> EventId:
    return EventId(f"ev-{secrets.token_hex(12)}")


def new_nonce() -> str:
    """Names one call to Redis, so that the call sent again after a lost reply is known for the same one."""
    return secrets.token_hex(12)


def new_key_id() -> KeyId:
    return KeyId(f"key-{secrets.token_hex(6)}")
