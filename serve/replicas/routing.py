"""Which replica answers a request. Pure."""

import hashlib
from collections.abc import Mapping

SPARE = 4
"""Requests that a session's own replica may have more than the idlest one: its cached prompt is worth about so many."""


def choose(in_flight: Mapping[str, int], key: str, *, sticky: bool) -> str:
    """The replica for a request, of those that have what it needs, by name with their requests in flight.

    Without `sticky` one with the fewest in flight. With it the replica that `key` (a session) always comes to, unless
    that one is busier than the idlest by more than SPARE. Rendezvous hashing (Thaler and Ravishankar 1998): a replica
    that goes or comes moves only the sessions that were or will be its own. KeyError when there is none to choose from.
    """
    if not in_flight:
        raise KeyError("no replica to choose from")
    most = min(in_flight.values()) + (SPARE if sticky else 0)
    return max((name for name, running in in_flight.items() if running <= most), key=lambda name: _weight(key, name))


def _weight(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()
