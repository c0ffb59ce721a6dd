"""The connection to Redis: making it, translating its failures, and what it must promise for votes to be safe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, TypeAlias

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from feedback.errors import LedgerUnavailable

Client: TypeAlias = Any
"""A connected redis-py client that decodes replies to str, which redis-py's own types cannot say."""


def connect(url: str, *, timeout_s: float = 2.0) -> Client:
    """A client for the Redis at `url`; connects on first use.

    A call whose reply does not come in time is sent again once, though Redis may have done it already. So every
    write of the ledger does nothing when it is repeated, and answers as it did the first time.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(base=0.02, cap=0.1), retries=1),
    )


Script: TypeAlias = Callable[..., Any]
"""A registered Lua script, called with `keys` and `args`."""


@contextmanager
def translated() -> Iterator[None]:
    """Turns any failure of Redis into LedgerUnavailable."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise LedgerUnavailable(f"Redis did not answer ({type(error).__name__}: {error}); try again") from error


def lua(client: Client, name: str) -> Script:
    """The script `feedback/lua/NAME.lua`, ready to be called. Loads itself into Redis when that has forgotten it."""
    script: Script = client.register_script(files("feedback").joinpath("lua", f"{name}.lua").read_text())
    return script


def is_up(client: Client) -> bool:
    try:
        with translated():
            return bool(client.ping())
    except LedgerUnavailable:
        return False


def check_durability(client: Client) -> list[str]:
    """What stands against the promise that an accepted vote survives, one sentence a finding; empty when all is well.

    Looks at `appendonly`, `appendfsync` and `maxmemory-policy`. A Redis that hides its settings is a finding too.
    """
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    try:
        with translated():
            found: dict[str, Any] = {name: dict(client.config_get(name)).get(name) for name in wanted}
    except LedgerUnavailable as error:
        return [f"the settings of Redis could not be read: {error}"]
    return [
        f"{name} is {found[name]!r}, accepted votes are only safe with {value!r}"
        for name, value in wanted.items()
        if found[name] != value
    ]
