"""From events to pairs: two answers to one prompt with a preferred side. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from feedback.chats import Answer, Taught, Unusable, answer_of, chats_named
from feedback.events import OVERALL, Aspect, Comparison, Edit, Event, Verdict
from feedback.ids import TurnId
from feedback.scores import Group, group_of
from feedback.turns import Turn, answer_one_prompt

TIE = 0.5


class Pair(Taught):
    """Two answers to one prompt.

    `preference` is how likely the chosen answer is the better one: 1, or TIE where they were said to be the same.
    `aspect` is what they were compared in. `margin_steps` is by how many of the 4 steps from 1 to 5 the chosen one was
    scored above the other, 0 where nobody scored them.

    Two scores make one pair. It has the `event_id` of the later one: only with that it came to be.
    """

    chosen: Answer
    rejected: Answer
    preference: float = 1.0
    aspect: str = OVERALL
    margin_steps: int = 0


@dataclass(frozen=True)
class PairSet:
    """Pairs in the order of their events, and how many events made none, by reason."""

    pairs: tuple[Pair, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def build_pairs(events: Iterable[Event], turns: Mapping[TurnId, Turn]) -> PairSet:
    """The pairs that standing events make: comparisons, ties among them, edits, and scores of answers to one prompt.

    A score makes a pair with each earlier one of the same person and aspect; equal scores make a tie. Every event that
    makes none is counted under its reason: a thumb, a score of one answer alone, both answers bad or equal, a turn no
    longer kept, a turn that is no chat.
    """
    pairs: list[Pair] = []
    skipped: Counter[str] = Counter()
    groups: dict[Group, list[_Score]] = defaultdict(list)
    for event in events:
        try:
            if isinstance(event.said, Aspect):
                [turn] = chats_named(event, turns)
                score, group = _Score(event, event.said, turn), groups[group_of(event, event.said, turn)]
                group.append(score)
                pairs += _scored_pairs(group[:-1], score)
            else:
                pairs.append(_pair(event, turns))
        except Unusable as reason:
            skipped[str(reason)] += 1
    if alone := sum(len(group) == 1 for group in groups.values()):
        skipped["score of one answer alone"] = alone
    return PairSet(tuple(pairs), dict(skipped))


@dataclass(frozen=True)
class _Score:
    event: Event
    said: Aspect
    turn: Turn


def _scored_pairs(earlier: list[_Score], later: _Score) -> list[Pair]:
    """A pair of a score with each earlier one of its group, but for answers that say the same."""
    others = [each for each in earlier if each.turn.answer.strip() != later.turn.answer.strip()]
    if earlier and not others:
        raise Unusable("equal answers")
    return [_scored_pair(other, later) for other in others]


def _scored_pair(earlier: _Score, later: _Score) -> Pair:
    better, worse = (later, earlier) if later.said.score > earlier.said.score else (earlier, later)
    steps = better.said.score - worse.said.score
    return Pair(
        event_id=later.event.id,
        messages=earlier.turn.messages,
        prompt_token_ids=earlier.turn.prompt_token_ids or None,
        chosen=answer_of(better.turn),
        rejected=answer_of(worse.turn),
        preference=1.0 if steps else TIE,
        aspect=later.said.name,
        margin_steps=steps,
        source=later.said.source,
    )


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
