"""From events to pairs: two answers to one prompt with a preferred side. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from feedback.events import Comparison, Edit, Event, Source, Verdict, turns_named
from feedback.ids import EventId, TurnId, Version
from feedback.turns import Message, Turn, answer_one_prompt


class Answer(BaseModel):
    """One side of a pair. A person's own text has no turn, no version and no engine tokens."""

    model_config = ConfigDict(frozen=True)

    text: str
    turn_id: TurnId | None = None
    token_ids: tuple[int, ...] | None = None
    version: Version | None = None


class Pair(BaseModel):
    """Two answers to one prompt. `prompt_token_ids` are the engine's, `weight` multiplies the pair's loss."""

    model_config = ConfigDict(frozen=True)

    event_id: EventId
    messages: tuple[Message, ...]
    prompt_token_ids: tuple[int, ...] | None
    chosen: Answer
    rejected: Answer
    weight: float = 1.0
    source: Source = Source.human


@dataclass(frozen=True)
class PairSet:
    """Pairs in the order of their events, and how many events made none, by reason."""

    pairs: tuple[Pair, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def build_pairs(events: Iterable[Event], turns: Mapping[TurnId, Turn]) -> PairSet:
    """The pairs that standing events make: decided comparisons and edits.

    Every event that makes none is counted under its reason: a thumb alone, a tie, both answers bad or equal, a
    turn no longer kept, a turn that is no chat.
    """
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    for event in events:
        made = _pair(event, turns)
        if isinstance(made, Pair):
            pairs.append(made)
        else:
            skipped[made] += 1
    return PairSet(tuple(pairs), dict(skipped))


def _pair(event: Event, turns: Mapping[TurnId, Turn]) -> Pair | str:
    said = event.said
    if not isinstance(said, Comparison | Edit):
        return f"{said.kind} makes no pair"
    about = [turns.get(turn_id) for turn_id in turns_named(said)]
    kept = [turn for turn in about if turn is not None]
    if len(kept) < len(about):
        return "turn no longer kept"
    if any(turn.kind != "chat" for turn in kept):
        return "not a chat"
    if isinstance(said, Edit):
        sides = (Answer(text=said.text), _answer(kept[0]))
    elif said.verdict is Verdict.tie:
        return "tie"
    elif said.verdict is Verdict.both_bad:
        return "both bad"
    else:
        if not answer_one_prompt(kept[0], kept[1]):
            return "different prompts"
        first, second = _answer(kept[0]), _answer(kept[1])
        sides = (first, second) if said.verdict is Verdict.first else (second, first)
    if sides[0].text.strip() == sides[1].text.strip():
        return "equal answers"
    return Pair(
        event_id=event.id,
        messages=kept[0].messages,
        prompt_token_ids=kept[0].prompt_token_ids or None,
        chosen=sides[0],
        rejected=sides[1],
        source=said.source,
    )


def _answer(turn: Turn) -> Answer:
    return Answer(
        text=turn.answer,
        turn_id=turn.id,
        token_ids=turn.token_ids or None,
        version=turn.version,
    )
