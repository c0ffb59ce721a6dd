"""Operator keys that browsers gave, held in this process alone, by visitor, until signing out or eight idle hours.

Holding a key proves nothing here: it goes with every call to the gateway, which checks it each time.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ui.errors import NotSignedIn
from ui.visitor import Visitors

IDLE_S = 8 * 3600
MOST_HELD = 1_000


@dataclass(frozen=True)
class _Held:
    key: str
    until: float


class Operators:
    def __init__(self, visitors: Visitors, clock: Callable[[], float] = time.monotonic) -> None:
        self._visitors = visitors
        self._clock = clock
        self._held: dict[str, _Held] = {}

    def key_of(self, cookies: Mapping[str, str]) -> str:
        """The key this browser signed in with. NotSignedIn without one; UnknownVisitor without our cookie."""
        visitor = self._visitors.name_in(cookies)
        held = self._held.get(visitor)
        if held is None or held.until < self._clock():
            self._held.pop(visitor, None)
            raise NotSignedIn(visitor)
        self._held[visitor] = _Held(held.key, self._clock() + IDLE_S)
        return held.key

    def sign_in(self, cookies: Mapping[str, str], key: str) -> None:
        """Hold a key that the gateway has just taken."""
        self._held[self._visitors.name_in(cookies)] = _Held(key, self._clock() + IDLE_S)
        while len(self._held) > MOST_HELD:
            del self._held[next(iter(self._held))]

    def sign_out(self, cookies: Mapping[str, str]) -> None:
        self._held.pop(self._visitors.name_in(cookies), None)
