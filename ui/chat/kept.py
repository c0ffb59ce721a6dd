"""What a browser remembers for itself between visits: which conversation was open, what it took off the screen,
and a message not answered yet. None of it is a statement about an answer; nothing here is trusted as an id. Pure.
"""

import re
from dataclasses import dataclass
from typing import Any

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MOST = 400
_DRAFT_CHARS = 32_000


@dataclass(frozen=True)
class Kept:
    """`undone` are turns, `hidden` sessions, that this browser no longer shows; `draft` waits for its answer, and
    `place` messages stand before it.
    """

    current: str = ""
    undone: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    draft: str = ""
    place: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "current": self.current,
            "undone": sorted(self.undone)[-_MOST:],
            "hidden": sorted(self.hidden)[-_MOST:],
            "draft": self.draft[:_DRAFT_CHARS],
            "place": self.place,
        }


def read_kept(value: Any) -> Kept:
    """What the browser sent, as far as it has the right shape."""
    if not isinstance(value, dict):
        return Kept()
    current, draft, place = value.get("current"), value.get("draft"), value.get("place")
    return Kept(
        current=current if isinstance(current, str) and _is_id(current) else "",
        undone=_ids(value.get("undone")),
        hidden=_ids(value.get("hidden")),
        draft=draft[:_DRAFT_CHARS] if isinstance(draft, str) else "",
        place=place if type(place) is int and place >= 0 else 0,
    )


def _ids(value: Any) -> frozenset[str]:
    return frozenset(one for one in value[-_MOST:] if _is_id(one)) if isinstance(value, list) else frozenset()


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None
