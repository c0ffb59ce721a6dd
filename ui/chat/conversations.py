"""Turns of one person → conversations, and the one path through a conversation that is on screen.

Pure. The ledger's turns are the only store: the newest turn that was not undone holds a conversation's state, and
what was said about two answers decides which of them continues it.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from feedback.events import Comparison, Edit, Rating, Retract, Statement, Verdict

Pair = frozenset[str]
TITLE_CHARS = 60
STOPPED = "stopped"
"""The finish reason of an answer that was stopped, or cut off by a failure, before its end."""


@dataclass(frozen=True)
class Message:
    role: str
    text: str


@dataclass(frozen=True)
class Turn:
    """One answer as the gateway keeps it; `messages` is what it answered.

    Of a duel's two answers the second has `compare_with`, and `version` is empty as long as the gateway does not tell.
    """

    id: str
    session: str
    version: str
    messages: tuple[Message, ...]
    answer: str
    finish_reason: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)
    compare_with: str | None = None
    duel: bool = False


@dataclass(frozen=True)
class Said:
    """A statement the ledger accepted, under its event id."""

    event_id: str
    statement: Statement


@dataclass(frozen=True)
class Standing:
    """What one person's words come to: per turn, and per pair of turns."""

    ratings: Mapping[str, Said] = field(default_factory=dict)
    edits: Mapping[str, Said] = field(default_factory=dict)
    comparisons: Mapping[Pair, Said] = field(default_factory=dict)

    def rating(self, turn_id: str) -> Rating | None:
        said = self.ratings.get(turn_id)
        return said.statement if said is not None and isinstance(said.statement, Rating) else None

    def edit(self, turn_id: str) -> str | None:
        said = self.edits.get(turn_id)
        return said.statement.text if said is not None and isinstance(said.statement, Edit) else None

    def comparison(self, one: str, other: str) -> Comparison | None:
        said = self.comparisons.get(frozenset((one, other)))
        return said.statement if said is not None and isinstance(said.statement, Comparison) else None


@dataclass(frozen=True)
class Step:
    """One message on screen. `turn` is the answer's turn when it is still kept; `suggested` the person's own text."""

    message: Message
    turn: Turn | None = None
    suggested: str | None = None


@dataclass(frozen=True)
class Path:
    """A conversation as it stands. With an open `pair` (older, newer) the steps end before the two answers."""

    steps: tuple[Step, ...] = ()
    pair: tuple[Turn, Turn] | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(step.message for step in self.steps)

    @property
    def tip(self) -> Turn | None:
        """The turn of the last answer on screen."""
        return self.steps[-1].turn if self.steps and self.pair is None else None


@dataclass(frozen=True)
class Summary:
    session: str
    title: str


def standing(said: Iterable[Said]) -> Standing:
    """What still holds of statements given oldest first: a later one supersedes an earlier, a retract takes it away.

    Scores of aspects are not shown here.
    """
    ratings: dict[str, Said] = {}
    edits: dict[str, Said] = {}
    comparisons: dict[Pair, Said] = {}
    for one in said:
        match one.statement:
            case Rating(turn_id=turn_id):
                ratings[turn_id] = one
            case Edit(turn_id=turn_id):
                edits[turn_id] = one
            case Comparison(turn_ids=turn_ids):
                comparisons[frozenset(turn_ids)] = one
            case Retract(event_id=event_id):
                for held in (ratings, edits, comparisons):
                    _drop(held, event_id)
    return Standing(ratings, edits, comparisons)


def chosen(older: Turn, newer: Turn, comparison: Comparison | None) -> Turn | None:
    """The answer that goes on; None while that is open.

    About the same keeps the answer that was there before, or first; when both are bad the other one goes on. A duel
    that was stopped is none: of its two the first goes on, if anything of it came.
    """
    if older.answer.strip() == newer.answer.strip():
        return older
    if newer.duel and STOPPED in (older.finish_reason, newer.finish_reason):
        return older if older.answer.strip() else newer
    if comparison is None:
        return None
    if comparison.verdict is Verdict.tie:
        return older
    if comparison.verdict is Verdict.both_bad:
        return newer
    place = 0 if comparison.verdict is Verdict.first else 1
    return older if comparison.turn_ids[place] == older.id else newer


def path_of(turns: Sequence[Turn], undone: AbstractSet[str], words: Standing) -> Path:
    """The path through one session's turns, given oldest first."""
    kept = [turn for turn in turns if turn.id not in undone]
    if not kept:
        return Path()
    tip = kept[-1]
    known = {turn.id: turn for turn in kept}
    older = known.get(tip.compare_with or "")
    before = tuple(_step(turns, tip.messages, at, words) for at in range(len(tip.messages)))
    if older is None or older.messages != tip.messages:
        return Path((*before, _answer_step(tip, words)))
    winner = chosen(older, tip, words.comparison(older.id, tip.id))
    if winner is None:
        return Path(before, pair=(older, tip))
    return Path((*before, _answer_step(winner, words)))


def undo(path: Path, turns: Iterable[Turn]) -> frozenset[str]:
    """The turns that undoing the last exchange takes off the screen: every answer to its message."""
    if path.pair is not None:
        asked = path.pair[0].messages
    elif path.tip is not None:
        asked = path.tip.messages
    else:
        return frozenset()
    return frozenset(turn.id for turn in turns if turn.messages == asked)


def conversations(turns: Sequence[Turn], *, undone: AbstractSet[str], hidden: AbstractSet[str]) -> list[Summary]:
    """The list of conversations, the one spoken in last first, of turns given oldest first."""
    newest: dict[str, Turn] = {}
    for turn in turns:
        if turn.id in undone or turn.session in hidden:
            continue
        newest.pop(turn.session, None)
        newest[turn.session] = turn
    return [Summary(session, title_of(turn.messages)) for session, turn in reversed(newest.items())]


def title_of(messages: Iterable[Message]) -> str:
    """The first thing asked, on one line."""
    first = next((message.text for message in messages if message.role == "user"), "")
    line = " ".join(first.split())
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def _answer_step(turn: Turn, words: Standing) -> Step:
    suggested = words.edit(turn.id)
    return Step(Message("assistant", suggested if suggested is not None else turn.answer), turn, suggested)


def _step(turns: Sequence[Turn], messages: tuple[Message, ...], at: int, words: Standing) -> Step:
    """An earlier message with the turn it came from: same prompt, and this text as its answer or as its correction."""
    message = messages[at]
    if message.role != "assistant":
        return Step(message)
    for turn in reversed(turns):
        if turn.messages == messages[:at] and (_is_answer(turn, message.text) or message.text == words.edit(turn.id)):
            return Step(message, turn, words.edit(turn.id))
    return Step(message)


def _is_answer(turn: Turn, text: str) -> bool:
    """Of a stopped answer the ledger may hold some words more than had come to the screen."""
    return text == turn.answer or (turn.finish_reason == STOPPED and turn.answer.startswith(text))


def _drop(held: dict[Any, Said], event_id: str) -> None:
    for key in [key for key, said in held.items() if said.event_id == event_id]:
        del held[key]
