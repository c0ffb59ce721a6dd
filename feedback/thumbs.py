"""From events to thumbs: one answer to one prompt, said to be good or bad. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from feedback.chats import Answer, Taught, Unusable, answer_of, chats_named
from feedback.events import Comparison, Edit, Event, Rating, Verdict
from feedback.ids import TurnId
from feedback.turns import Turn


class Thumb(Taught):
    """One answer with its thumb."""

    answer: Answer
    up: bool


@dataclass(frozen=True)
class ThumbSet:
    """Thumbs in the order of their events, and how many events made none, by reason."""

    thumbs: tuple[Thumb, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def build_thumbs(events: Iterable[Event], turns: Mapping[TurnId, Turn], *, from_pairs: bool = False) -> ThumbSet:
    """The thumbs that standing events make: ratings, and both answers of a comparison that were said to be bad.

    With `from_pairs` also those that a preference stands for: up for the better answer, down for the other one.
    Where a rating of the same turn stands, it alone counts.
    """
    events = list(events)
    rated = {TurnId(event.said.turn_id) for event in events if isinstance(event.said, Rating)}
    thumbs: list[Thumb] = []
    skipped: Counter[str] = Counter()
    for event in events:
        try:
            made = _thumbs(event, turns, from_pairs)
        except Unusable as reason:
            skipped[str(reason)] += 1
            continue
        rating = isinstance(event.said, Rating)
        thumbs += [thumb for thumb in made if rating or thumb.answer.turn_id not in rated]
    return ThumbSet(tuple(thumbs), dict(skipped))


def _thumbs(event: Event, turns: Mapping[TurnId, Turn], from_pairs: bool) -> list[Thumb]:
    said = event.said
    if isinstance(said, Rating):
        sides = [said.value == "up"]
    elif isinstance(said, Comparison) and said.verdict is Verdict.both_bad:
        sides = [False, False]
    elif isinstance(said, Comparison) and from_pairs and said.verdict is not Verdict.tie:
        sides = [said.verdict is Verdict.first, said.verdict is Verdict.second]
    elif isinstance(said, Edit) and from_pairs:
        sides = [False]
    else:
        raise Unusable(f"{said.kind} makes no thumb")
    kept = chats_named(event, turns)
    if set(sides) == {True, False} and kept[0].answer == kept[1].answer:
        raise Unusable("equal answers")
    answers = [(turn, answer_of(turn), up) for turn, up in zip(kept, sides, strict=True)]
    if isinstance(said, Edit):
        answers.append((kept[0], Answer(text=said.text), True))
    return [
        Thumb(
            event_id=event.id,
            messages=turn.messages,
            prompt_token_ids=turn.prompt_token_ids or None,
            answer=answer,
            up=up,
            source=said.source,
        )
        for turn, answer, up in answers
    ]
