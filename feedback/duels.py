"""Duels in Redis: prompts that the live version and the canary answered at once, and the blind votes on them.

A duel is written before either answer is begun, so that which prompts are compared depends on nothing that was seen.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from feedback.canary import Tally
from feedback.connection import Client, translated
from feedback.events import Comparison, Event, Source, Verdict
from feedback.ids import LineName, TurnId, Version, choice_turn_id
from feedback.keyspace import Keyspace
from feedback.ledger import Ledger

Outcome = Literal["wins", "losses", "ties", "both_bad"]


class Duel(BaseModel):
    """Two answers to one prompt, `at` in Unix seconds; `first` is the version behind the first of them."""

    model_config = ConfigDict(frozen=True)

    turn: TurnId
    at: float
    live: Version
    canary: Version
    first: Version

    @property
    def turns(self) -> tuple[TurnId, TurnId]:
        return self.turn, choice_turn_id(self.turn, 1)

    @property
    def canary_turn(self) -> TurnId:
        return self.turns[0 if self.first == self.canary else 1]


def first_verdict(duel: Duel, about: Iterable[Event]) -> Comparison | None:
    """The first word on a duel's two answers, of events about its first turn, oldest first.

    It alone was given blind: with it the page tells the sides. What is said later, taking it back included, teaches,
    and decides nothing. A judge's word is none of the people's.
    """
    for event in about:
        said = event.said
        if isinstance(said, Comparison) and set(said.turn_ids) == set(duel.turns) and said.source is not Source.judge:
            return said
    return None


def outcome(duel: Duel, said: Comparison) -> Outcome:
    """What a verdict means for the canary."""
    if said.verdict is Verdict.tie:
        return "ties"
    if said.verdict is Verdict.both_bad:
        return "both_bad"
    better = said.turn_ids[0 if said.verdict is Verdict.first else 1]
    return "wins" if better == duel.canary_turn else "losses"


def tally(said: Iterable[tuple[Duel, Comparison]]) -> Tally:
    counts = Counter(outcome(duel, word) for duel, word in said)
    return Tally.model_validate(counts)


class DuelRows:
    """The duels of one line. LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client, line: LineName, ledger: Ledger) -> None:
        self._client = client
        self._keys = Keyspace(line)
        self._ledger = ledger

    def open(self, duel: Duel) -> None:
        """Enters a duel that is about to be answered; doing it again changes nothing."""
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.set(self._keys.duel(duel.turn), duel.model_dump_json())
            pipe.zadd(self._keys.duels(duel.canary), {duel.turn: duel.at})
            pipe.execute()

    def undecided(self, turns: Iterable[TurnId]) -> set[TurnId]:
        """Those of the turns that belong to a duel on which nobody has said anything yet."""
        firsts = list(dict.fromkeys(_first_of(turn) for turn in turns))
        return {turn for duel, said in self._with_verdicts(firsts) if said is None for turn in duel.turns}

    def votes(self, canary: Version) -> list[tuple[Duel, Comparison]]:
        """The first verdict on each of a canary's duels that has one, in the order of the duels."""
        with translated():
            firsts = [TurnId(turn) for turn in self._client.zrange(self._keys.duels(canary), 0, -1)]
        return [(duel, said) for duel, said in self._with_verdicts(firsts) if said is not None]

    def _with_verdicts(self, firsts: Sequence[TurnId]) -> list[tuple[Duel, Comparison | None]]:
        if not firsts:
            return []
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for turn in firsts:
                pipe.get(self._keys.duel(turn))
                pipe.zrange(self._keys.about(turn), 0, -1)
            rows = pipe.execute()
        duels = [Duel.model_validate_json(row) if row else None for row in rows[0::2]]
        about = rows[1::2]
        events = {event.id: event for event in self._ledger.events([each for ids in about for each in ids])}
        return [
            (duel, first_verdict(duel, [events[each] for each in ids if each in events]))
            for duel, ids in zip(duels, about, strict=True)
            if duel is not None
        ]


def _first_of(turn: TurnId) -> TurnId:
    return TurnId(turn.partition(".")[0])
