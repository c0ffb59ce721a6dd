"""Which events still stand: a later word by the same person on the same turns takes the place of the earlier.

Pure. The ledger keeps the same answer in Redis, by slot, so that it need not read the whole log.
"""

import hashlib
from collections.abc import Iterable

from feedback.events import Aspect, Event, Retract, Source, Statement, turns_named
from feedback.ids import TenantId, UserId


def slot(said: Statement, tenant: TenantId, user: UserId | None) -> str:
    """The place an event takes: tenant, person, kind, the turns it is about in whatever order they were named, aspect.

    Of all events with one slot only the latest stands. A retraction has no slot of its own. What a judge or a
    simulated user says stands beside what the person said: it never takes the place of a human's word.
    """
    turns = ",".join(sorted(turns_named(said)))
    parts = [tenant, user or "", said.kind, turns]
    if isinstance(said, Aspect):
        parts.append(said.name)
    if said.source is not Source.human:
        parts.append(said.source)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def standing(events: Iterable[Event]) -> list[Event]:
    """The events that still stand, oldest first, of a log given oldest first.

    Taking back an event that was already superseded changes nothing; taking back the one that stands leaves its
    place empty (the earlier word does not come back).
    """
    held: dict[str, Event] = {}
    slots: dict[str, str] = {}
    for event in events:
        if isinstance(event.said, Retract):
            place = slots.get(event.said.event_id)
            if place is not None and place in held and held[place].id == event.said.event_id:
                del held[place]
            continue
        place = slot(event.said, event.tenant, event.user)
        slots[event.id] = place
        held.pop(place, None)
        held[place] = event
    return sorted(held.values(), key=lambda event: event.ordinal)
