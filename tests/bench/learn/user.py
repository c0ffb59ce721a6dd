"""The simulated user: asks each taught question twice, and says which answer is better, through the public API.

What was answered is kept in the home, a line a question: every recipe of a taste learns from the same answers.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from feedback.ids import EventId
from tests.bench.learn.cells import Cell
from tests.bench.learn.place import Place
from tests.bench.learn.tastes import Taste, flip
from tests.demo.taste import Seen

Result = TypeVar("Result")

MAX_TOKENS = 128
TEMPERATURE = 0.8
AT_ONCE = 32
"""Nobody chats meanwhile: the engine makes most tokens a second of so many at once."""
_TRY_AGAIN = {429, 500, 502, 503, 504}
_TRIES = 60


@dataclass(frozen=True)
class Asked:
    """A question with the turns of its two answers and how they look to the user."""

    question: str
    turns: tuple[str, str]
    seen: tuple[Seen, Seen]


@dataclass(frozen=True)
class Votes:
    """What was said of a taste's answers: the events, how many said neither, and the last one's place in the log."""

    event_ids: list[EventId]
    ties: int
    ordinal: int


class User:
    """Calls with the page's key, sent again while the gateway is busy."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._http = httpx.AsyncClient(
            base_url=place.gateway_url, timeout=600, headers={"Authorization": f"Bearer {place.key('page')}"}
        )

    async def ask(self, question: str, compare_with: str | None = None) -> tuple[str, Seen]:
        """The turn and how its answer looks; a second one to the same question when `compare_with` names the first."""
        body = {
            "model": "burnish@v0000-base",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "user": "simulated",
            "metadata": {"compare_with": compare_with} if compare_with else {},
        }
        answer = await self._post("/v1/chat/completions", body)
        choice = answer["choices"][0]
        return answer["id"], Seen(choice["message"]["content"] or "", choice["finish_reason"] == "stop")

    async def say(self, statement: dict[str, Any], key: str) -> EventId:
        """The id of the event that keeps a statement; the same one again for the same `key`."""
        event = await self._post("/v1/feedback", statement, {"Idempotency-Key": key})
        return EventId(event["id"])

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
        for _ in range(_TRIES):
            self._place.check()
            try:
                answer = await self._http.post(path, json=body, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(1)
                continue
            if answer.status_code < 300:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code not in _TRY_AGAIN:
                raise RuntimeError(f"{path} was refused: {answer.status_code} {answer.text[:500]}")
            await asyncio.sleep(1)
        raise RuntimeError(f"{path} was not answered in {_TRIES} tries")


def answers_once(place: Place, taste: Taste, n: int) -> list[Asked]:
    """The first `n` taught questions with two answers of the base each; what is kept is not asked again."""
    path = place.home / "asked" / f"{taste.name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    kept = {asked.question: asked for asked in read_asked(path)}
    missing = [question for question in taste.taught[:n] if question not in kept]

    async def ask_missing() -> None:
        user, room = User(place), asyncio.Semaphore(AT_ONCE)

        async def one(question: str) -> None:
            async with room:
                first, seen = await user.ask(question + taste.suffix)
                second, other = await user.ask(question + taste.suffix, compare_with=first)
                kept[question] = Asked(question, (first, second), (seen, other))
                append_line(path, asdict(kept[question]))

        try:
            async with asyncio.TaskGroup() as group:
                for question in missing:
                    group.create_task(one(question))
        finally:
            await user.close()

    if missing:
        run_alone(ask_missing)
    return [kept[question] for question in taste.taught[:n]]


def vote_once(place: Place, cell: Cell, taste: Taste, asked: Sequence[Asked]) -> Votes:
    """Say what the cell learns from; said again, the events are the same."""
    verdicts = flip([taste.verdict(*each.seen) for each in asked], cell.wrong)

    async def say_all() -> list[EventId]:
        user = User(place)
        try:
            return [
                await user.say(statement, f"{cell.votes}-{'-'.join(each.turns)}-{nth}")
                for each, verdict in zip(asked, verdicts, strict=True)
                for nth, statement in enumerate(statements(cell, each, verdict))
            ]
        finally:
            await user.close()

    event_ids = run_alone(say_all)
    ordinal = max(event.ordinal for event in place.ledger.events(event_ids))
    return Votes(event_ids, verdicts.count("tie"), ordinal)


def statements(cell: Cell, asked: Asked, verdict: str) -> list[dict[str, Any]]:
    """A verdict as a comparison, or as a thumb for each answer; of answers that are alike no thumb says anything.

    Each set of votes is said by a user of its own: a later word of the same one would take the place of the earlier.
    """
    said = {"user": cell.votes, "source": "simulated"}
    if not cell.thumbs:
        shown = {"left": asked.turns[0], "mode": "regenerate"}
        return [{**said, "kind": "comparison", "turn_ids": list(asked.turns), "verdict": verdict, "shown": shown}]
    if verdict == "tie":
        return []
    ups = (verdict == "first", verdict == "second")
    return [
        {**said, "kind": "rating", "turn_id": turn, "value": "up" if up else "down"}
        for turn, up in zip(asked.turns, ups, strict=True)
    ]


def run_alone(act: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run to the end; of several things that went wrong the first is raised."""
    try:
        return asyncio.run(act())
    except BaseExceptionGroup as failed:
        raise _first(failed) from failed


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failed.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def read_asked(path: Path) -> list[Asked]:
    """What is kept; a last line that a kill cut short is passed over."""
    found = []
    for row in read_lines(path):
        first, second = (Seen(**seen) for seen in row["seen"])
        found.append(Asked(row["question"], (row["turns"][0], row["turns"][1]), (first, second)))
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, a line each; none when there is no such file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add a line; one that a kill cut short before it ends there."""
    with path.open("a", encoding="utf-8") as sink:
        sink.write("\n" + json.dumps(row))
