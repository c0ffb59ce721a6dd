"""The ledger in Redis: turns and events, appended durably, and what may be asked of them."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from feedback.authorship import author, retractor, unknown_turn
from feedback.connection import Client, lua, translated
from feedback.errors import IdempotencyConflict, LedgerUnavailable
from feedback.events import Aspect, Event, Retract, Source, Statement, turns_named
from feedback.ids import EventId, Lesson, LineName, TenantId, TurnId, UserId, new_event_id
from feedback.keyspace import Keyspace
from feedback.lesson_rows import LessonRows
from feedback.lessons import PAIRS, lesson_of
from feedback.scores import Group, group_of
from feedback.standing import slot
from feedback.turn_rows import TurnRows
from feedback.turns import Turn

IDEMPOTENCY_TTL_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Appended:
    """The event, and whether this call made it (False when the idempotency key had already)."""

    event: Event
    created: bool


@dataclass(frozen=True)
class VoteCounts:
    """Standing `events`, the `pairs` they make, and events ever said by `people`."""

    events: int
    pairs: int
    people: int


@dataclass(frozen=True)
class Speaker:
    """Who sends a statement: the key's tenant, and the person the caller names, if any."""

    tenant: TenantId
    user: UserId | None = None


class Ledger:
    """Turns and events of one line. Every method raises LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client, line: LineName) -> None:
        self._client = client
        self._keys = Keyspace(line)
        self._turns = TurnRows(client, self._keys)
        self._lessons = LessonRows(client, self._keys)
        self._append = lua(client, "append_event")

    # Turns -------------------------------------------------------------------------------------------------------
    def append_turns(self, turns: Sequence[Turn]) -> None:
        """Keeps turns, all or none; on disk when it returns. Appending a turn again changes nothing."""
        self._turns.append(turns)

    def turn(self, turn_id: TurnId) -> Turn | None:
        return self.turns([turn_id]).get(turn_id)

    def turns(self, turn_ids: Iterable[TurnId]) -> dict[TurnId, Turn]:
        """Those of the turns that are still kept and can be read, in the order given."""
        return self._turns.get(turn_ids)

    def turns_of(
        self,
        tenant: TenantId,
        *,
        user: UserId | None = None,
        session: str | None = None,
        limit: int = 100,
    ) -> list[Turn]:
        """A tenant's turns of the last 30 days, newest first; of one person and one session when these are given."""
        return self._turns.of(tenant, user, session, limit)

    # Events ------------------------------------------------------------------------------------------------------
    def append_event(self, said: Statement, speaker: Speaker, *, idempotency_key: str | None = None) -> Appended:
        """Accepts what somebody says; on disk when it returns.

        The person is `said.user`, else the speaker's, else that of the turn. UnknownTurn or UnknownEvent when it is
        about something that this tenant and person do not have, StatementRefused when it makes no sense of the turns,
        IdempotencyConflict when the key was used for another body.
        """
        body_digest = hashlib.sha256(said.model_dump_json().encode()).hexdigest()
        keys = self._keys
        idempotency = keys.idempotency(speaker.tenant, idempotency_key) if idempotency_key else ""
        if idempotency:
            with translated():
                known = self._client.get(idempotency)
            if known is not None:
                return self._known(known, body_digest, idempotency_key)
        user = self._person(said, speaker)
        event_id, at = new_event_id(), time.time()
        event = Event(id=event_id, ordinal=0, at=at, tenant=speaker.tenant, user=user, said=said)
        status, value = self._run(event, idempotency=idempotency, body_digest=body_digest)
        if status == "known":
            return self._known(value, body_digest, idempotency_key)
        if status == "unknown_turn":
            raise unknown_turn(", ".join(turns_named(said)))
        return Appended(event.model_copy(update={"ordinal": int(value)}), True)

    def event(self, event_id: EventId) -> Event | None:
        return next(iter(self._events([event_id])), None)

    def events(self, event_ids: Sequence[EventId]) -> list[Event]:
        """The events of these ids, in the order given."""
        return self._events(event_ids)

    def events_about(self, turn_id: TurnId) -> list[Event]:
        """Every event about a turn, superseded ones too, oldest first."""
        with translated():
            ids = self._client.zrange(self._keys.about(turn_id), 0, -1)
        return self._events(ids)

    def standing_events(self) -> list[Event]:
        """The events that stand, oldest first."""
        with translated():
            ids = self._client.zrange(self._keys.standing, 0, -1)
        return self._events(ids)

    def logged_events(self) -> Iterable[Event]:
        """The whole log, oldest first, superseded and retracted events included."""
        last = "-"
        while True:
            with translated():
                rows = self._client.xrange(self._keys.log, min=last, count=500)
            for _, fields in rows:
                yield _event(fields["body"], fields["ordinal"])
            if not rows:
                return
            last = f"({rows[-1][0]}"

    def vote_counts(self) -> VoteCounts:
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.zcard(self._keys.standing)
            pipe.hget(self._keys.tally, "people")
            events, people = pipe.execute()
        return VoteCounts(int(events), PAIRS.total(self.lessons(PAIRS.worth)), int(people or 0))

    def lessons(self, lessons: Iterable[Lesson], *, after: int = 0) -> dict[Lesson, int]:
        """How many standing events of each of these lessons came after the ordinal `after`."""
        return self._lessons.count(lessons, after)

    def fill_lessons(self) -> int:
        """Counts the votes of a ledger that was kept before lessons were; 0, and nothing done, when they are counted.

        Meant for a ledger that nobody writes to meanwhile.
        """
        return 0 if self._lessons.is_kept() else self._lessons.fill(self.standing_events())

    def last_ordinal(self) -> int:
        with translated():
            return int(self._client.get(self._keys.ordinal) or 0)

    def last_vote_at(self) -> float | None:
        """When the last event was accepted, in Unix seconds."""
        with translated():
            at = self._client.hget(self._keys.tally, "last_vote_at")
        return float(at) if at else None

    def rebuild(self) -> int:
        """Makes the view anew from the log, as it is after a Redis that lost its hashes; returns the events read.

        Meant for a ledger that nobody writes to meanwhile.
        """
        keys = self._keys
        with translated():
            self._client.delete(keys.slots, keys.standing, keys.lessons, keys.lesson_rows, keys.scores, keys.tally)
        read = last = 0
        for event in self.logged_events():
            self._run(event, append=False)
            read, last = read + 1, event.ordinal
        with translated():
            self._client.set(keys.ordinal, max(last, self.last_ordinal()))
        return read

    # Inside ------------------------------------------------------------------------------------------------------
    def _person(self, said: Statement, speaker: Speaker) -> UserId | None:
        """Who speaks, after checking that the statement is about what is theirs."""
        given = UserId(said.user) if said.user is not None else speaker.user
        if isinstance(said, Retract):
            return retractor(said, speaker.tenant, given, self.event(EventId(said.event_id)))
        return author(said, speaker.tenant, given, self.turns(turns_named(said)))

    def _run(
        self,
        event: Event,
        *,
        idempotency: str = "",
        body_digest: str = "",
        append: bool = True,
    ) -> tuple[str, str]:
        said = event.said
        retracted = EventId(said.event_id) if isinstance(said, Retract) else None
        args = [
            event.id,
            event.model_dump_json(exclude={"ordinal"}),
            "" if retracted else slot(said, event.tenant, event.user),
            lesson_of(said) or "",
            retracted or "",
            body_digest,
            str(IDEMPOTENCY_TTL_S),
            f"{event.at:.3f}",
            str(int(said.source is Source.human)),
            str(int(append)),
            str(event.ordinal),
            self._group(event),
            str(said.score) if isinstance(said, Aspect) else "",
        ]
        rows = self._rows_of(event, retracted, idempotency)
        with translated():
            status, value = self._append(keys=rows, args=args)
        return status, value

    def _rows_of(self, event: Event, retracted: EventId | None, idempotency: str) -> list[str]:
        """The keys that an event touches, in the script's order."""
        keys = self._keys
        target = self.event(retracted) if retracted else None
        rows = [
            keys.log,
            keys.ordinal,
            keys.event(event.id),
            idempotency,
            keys.slots,
            keys.standing,
            keys.lessons,
            keys.lesson_rows,
            keys.scores,
            keys.tally,
            keys.event(retracted or event.id),
        ]
        for turn_id in turns_named(target.said if target else event.said):
            rows += [keys.turn(turn_id), keys.about(turn_id)]
        return rows

    def _group(self, event: Event) -> Group:
        """The group of a score; "" for what is none, and for a score that no pair can be made of."""
        if not isinstance(event.said, Aspect):
            return ""
        turn = self.turn(TurnId(event.said.turn_id))
        return group_of(event, event.said, turn) if turn is not None and turn.kind == "chat" else ""

    def _known(self, row: str, body_digest: str, idempotency_key: str | None) -> Appended:
        event_id, digest = row.split(" ")
        if digest != body_digest:
            raise IdempotencyConflict(
                f"the idempotency key {idempotency_key!r} was used for another body; use a new key for a new statement"
            )
        event = self.event(EventId(event_id))
        if event is None:
            raise LedgerUnavailable(f"event {event_id} is in the idempotency row but not in the ledger; try again")
        return Appended(event, False)

    def _events(self, event_ids: Sequence[Any]) -> list[Event]:
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for event_id in event_ids:
                pipe.hmget(self._keys.event(event_id), "body", "ordinal")
            rows = pipe.execute()
        return [_event(body, ordinal) for body, ordinal in rows if body is not None]


def _event(body: str, ordinal: str) -> Event:
    return Event.model_validate({**json.loads(body), "ordinal": int(ordinal)})
