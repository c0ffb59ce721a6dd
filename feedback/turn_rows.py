"""Turns in Redis: one row each for 30 days, found by id or through the indexes of a tenant, a person and a session.

One script appends them, called by a thread (`TurnRows`) or from an event loop (`TurnWriter`).
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from feedback.connection import Client, lua, translated
from feedback.ids import LineName, TenantId, TurnId, UserId
from feedback.keyspace import Keyspace
from feedback.link import Link, LoopScript
from feedback.turns import Turn

TURN_TTL_S = 30 * 24 * 3600

log = logging.getLogger("feedback.turn_rows")


class TurnRows:
    """The turns of one line. LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client, keys: Keyspace) -> None:
        self._client = client
        self._keys = keys
        self._append = lua(client, "append_turns")

    def append(self, turns: Sequence[Turn]) -> None:
        """Keeps turns, all or none; on disk when it returns. Appending a turn again changes nothing.

        The indexes forget what is 30 days older than the newest turn they are given; a turn that an event is about
        stays, and is found through the event.
        """
        keys, args = appending(turns, self._keys)
        with translated():
            self._append(keys=keys, args=args)

    def get(self, turn_ids: Iterable[TurnId]) -> dict[TurnId, Turn]:
        """Those of the turns that are still kept. A row that cannot be read is logged and counts as not kept."""
        wanted = list(dict.fromkeys(turn_ids))
        if not wanted:
            return {}
        with translated():
            rows = self._client.mget([self._keys.turn(turn_id) for turn_id in wanted])
        read = {turn_id: _turn(turn_id, row) for turn_id, row in zip(wanted, rows, strict=True)}
        return {turn_id: turn for turn_id, turn in read.items() if turn is not None}

    def of(self, tenant: TenantId, user: UserId | None, session: str | None, limit: int) -> list[Turn]:
        """A tenant's turns of the last 30 days, newest first; of one person and one session when these are given."""
        index = self._keys.turns_of(tenant)
        if session is not None:
            index = self._keys.turns_of(tenant, "session", session)
        elif user is not None:
            index = self._keys.turns_of(tenant, "user", user)
        found: list[Turn] = []
        start = 0
        while len(found) < limit:
            with translated():
                ids = [TurnId(each) for each in self._client.zrevrange(index, start, start + limit - 1)]
            if not ids:
                break
            start += len(ids)
            # The row has the last word on whose turn it is: an index holds ids alone.
            found += [turn for turn in self.get(ids).values() if turn.tenant == tenant and user in (None, turn.user)]
        return found[:limit]


class TurnWriter:
    """Appends the turns of one line from an event loop."""

    def __init__(self, link: Link, line: LineName) -> None:
        self._link = link
        self._keys = Keyspace(line)
        self._script = LoopScript("append_turns")

    async def append(self, turns: Sequence[Turn]) -> None:
        """As `TurnRows.append`."""
        keys, args = appending(turns, self._keys)
        await self._link.run(self._script, keys, args)

    async def close(self) -> None:
        await self._link.close()


def appending(turns: Sequence[Turn], keys: Keyspace) -> tuple[list[str], list[str | int | float]]:
    """Keys and arguments of the script `append_turns`."""
    indexes: dict[str, list[tuple[float, TurnId]]] = defaultdict(list)
    for turn in turns:
        for index in _indexes(turn, keys):
            indexes[index].append((turn.at, turn.id))
    args: list[str | int | float] = [len(turns), TURN_TTL_S]
    args += (turn.model_dump_json(exclude_none=True) for turn in turns)
    for entries in indexes.values():
        newest = max(at for at, _ in entries)
        args += (f"({newest - TURN_TTL_S}", len(entries))
        for at, turn_id in entries:
            args += (at, turn_id)
    return [*(keys.turn(turn.id) for turn in turns), *indexes], args


def _indexes(turn: Turn, keys: Keyspace) -> list[str]:
    named = {"user": turn.user, "session": turn.session}
    return [
        keys.turns_of(turn.tenant),
        *(keys.turns_of(turn.tenant, field, value) for field, value in named.items() if value is not None),
    ]


def _turn(turn_id: TurnId, row: str | None) -> Turn | None:
    if row is None:
        return None
    try:
        return Turn.model_validate_json(row)
    except ValidationError as error:
        # One such row must not make all the others of its tenant unreadable.
        log.warning("turn %s is kept but cannot be read: %s", turn_id, error.errors(include_input=False)[0]["msg"])
        return None
