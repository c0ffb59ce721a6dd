"""From events to demonstrations: a prompt with the answer it should get. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from feedback.chats import Answer, Taught, Unusable, answer_of, chats_named
from feedback.events import Comparison, Edit, Event, Rating, Verdict
from feedback.ids import TurnId
from feedback.turns import Turn


class Origin(StrEnum):
    """Where a demonstration comes from: written by a person, preferred to another answer, or liked."""

    edit = "edit"
    preferred = "preferred"
    liked = "liked"


class Demonstration(Taught):
    """An answer to imitate."""

    answer: Answer
    origin: Origin


@dataclass(frozen=True)
class DemonstrationSet:
    """Demonstrations in the order of their events, and how many events made none, by reason."""

    demonstrations: tuple[Demonstration, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def build_demonstrations(events: Iterable[Event], turns: Mapping[TurnId, Turn]) -> DemonstrationSet:
    """What standing events show: edits, the better answers of comparisons, answers with a thumb up."""
    found: list[Demonstration] = []
    skipped: Counter[str] = Counter()
    for event in events:
        try:
            found.append(_demonstration(event, turns))
        except Unusable as reason:
            skipped[str(reason)] += 1
    return DemonstrationSet(tuple(found), dict(skipped))


def _demonstration(event: Event, turns: Mapping[TurnId, Turn]) -> Demonstration:
    origin, place = _shown(event)
    turn = chats_named(event, turns)[place]
    said = event.said
    return Demonstration(
        event_id=event.id,
        messages=turn.messages,
        prompt_token_ids=turn.prompt_token_ids or None,
        answer=Answer(text=said.text) if isinstance(said, Edit) else answer_of(turn),
        origin=origin,
        source=said.source,
    )


def _shown(event: Event) -> tuple[Origin, int]:
    """What kind of demonstration an event is, and the place of its turn among those it names."""
    said = event.said
    if isinstance(said, Edit):
        return Origin.edit, 0
    if isinstance(said, Rating) and said.value == "up":
        return Origin.liked, 0
    if isinstance(said, Comparison) and said.verdict in (Verdict.first, Verdict.second):
        return Origin.preferred, 0 if said.verdict is Verdict.first else 1
    raise Unusable(f"{said.kind} shows no answer to imitate")
