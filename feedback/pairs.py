"""From events to pairs: two answers to one prompt with a preferred side. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from feedback.chats import Answer, Taught, Unusable, answer_of, chats_named
from feedback.events import Comparison, Edit, Event, Verdict
from feedback.ids import TurnId
from feedback.turns import Turn, answer_one_prompt

TIE = 0.5


class Pair(Taught):
    """Two answers to one prompt.

    `preference` is how likely the chosen answer is the better one: 1, or TIE where they were said to be the same.
    """

    chosen: Answer
    rejected: Answer
    preference: float = 1.0


@dataclass(frozen=True)
class PairSet:
    """Pairs in the order of their events, and how many events made none, by reason."""

    pairs: tuple[Pair, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def build_pairs(events: Iterable[Event], turns: Mapping[TurnId, Turn]) -> PairSet:
    """The pairs that standing events make: comparisons, ties among them, and edits.

    Every event that makes none is counted under its reason: a thumb alone, both answers bad or equal, a turn no
    longer kept, a turn that is no chat.
    """
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    for event in events:
        try:
            pairs.append(_pair(event, turns))
        except Unusable as reason:
            skipped[str(reason)] += 1
    return PairSet(tuple(pairs), dict(skipped))


def _pair(event: Event, turns: Mapping[TurnId, Turn]) -> Pair:
    said = event.said
    if not isinstance(said, Comparison | Edit):
        raise Unusable(f"{said.kind} makes no pair")
    kept = chats_named(event, turns)
    chosen, rejected = _sides(said, kept)
    if chosen.text.strip() == rejected.text.strip():
        raise Unusable("equal answers")
    return Pair(
        event_id=event.id,
        messages=kept[0].messages,
        prompt_token_ids=kept[0].prompt_token_ids or None,
        chosen=chosen,
        rejected=rejected,
        preference=TIE if isinstance(said, Comparison) and said.verdict is Verdict.tie else 1.0,
        source=said.source,
    )


def _sides(said: Comparison | Edit, kept: list[Turn]) -> tuple[Answer, Answer]:
    """The better answer and the other one; in the event's order where neither is better."""
    if isinstance(said, Edit):
        return Answer(text=said.text), answer_of(kept[0])
    if said.verdict is Verdict.both_bad:
        raise Unusable("both bad")
    if not answer_one_prompt(kept[0], kept[1]):
        raise Unusable("different prompts")
    first, second = answer_of(kept[0]), answer_of(kept[1])
    return (second, first) if said.verdict is Verdict.second else (first, second)
