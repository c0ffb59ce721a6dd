"""A lease in Redis on something that one process at a time should do."""

from feedback.connection import Client, translated


class Lease:
    """Held by one `holder` at a time for `ttl_s` seconds, and on as long as it asks again.

    It saves work and guards nothing: for a moment two may think they hold it, so what they do must be safe to do twice.
    """

    def __init__(self, client: Client, key: str, *, holder: str, ttl_s: int) -> None:
        self._client = client
        self._key = key
        self._holder = holder
        self._ttl_s = ttl_s

    def held(self) -> bool:
        """Whether it is this holder's now; takes it where it is free. LedgerUnavailable when Redis is away."""
        with translated():
            if self._client.set(self._key, self._holder, nx=True, ex=self._ttl_s):
                return True
            if self._client.get(self._key) != self._holder:
                return False
            return bool(self._client.expire(self._key, self._ttl_s))
