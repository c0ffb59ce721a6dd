"""The acts that say something about an answer: a choice between two, a thumb with reasons, a correction, a retraction.

The desk changes only after the ledger has accepted the statement; until then everything stays as it was typed.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from feedback.events import Edit, Rating, Retract, turns_named
from ui.chat.compare import Choice, Showing, comparison
from ui.chat.conversations import Said, Turn, chosen
from ui.chat.desk import Desk, Notice, Panel
from ui.errors import UiError
from ui.markup import short_version

UP_REASONS: Mapping[str, str] = {
    "correct": "It is right",
    "helpful": "It helps",
    "clear": "It is clear",
    "well_written": "It is well written",
}
DOWN_REASONS: Mapping[str, str] = {
    "incorrect": "It is wrong",
    "off_request": "Not what I asked",
    "unclear": "Hard to follow",
    "too_long": "Too long",
    "too_short": "Too short",
    "unsafe": "Harmful or unkind",
}


async def vote(desk: Desk, choice: Choice) -> None:
    """Say which of the two answers on screen is better; the chosen one continues the conversation."""
    comparing = desk.comparing
    if comparing is None:
        return
    if choice not in comparing.tried:
        ms = round((time.monotonic() - comparing.since) * 1000)
        statement = comparison(comparing.showing, choice, user=desk.visitor, ms=ms)
        comparing.tried[choice] = (uuid.uuid4().hex, statement)
    key, statement = comparing.tried[choice]
    said = await desk.given.gateway.say(statement, key)
    _remember(desk, said)
    desk.settle()
    showing = comparing.showing
    goes_on = chosen(showing.older, showing.newer, statement) or showing.older
    goes_not = showing.newer if goes_on is showing.older else showing.older
    kept, other = await _unveiled(desk, goes_on), await _unveiled(desk, goes_not)
    desk.notice = Notice(f"{_thanks(showing, choice)} {_versions(kept, other)}".strip(), said=said)


async def rate(desk: Desk, at: int, value: Literal["up", "down"]) -> None:
    """A thumb on the answer at that place. The same thumb again takes it back."""
    turn = desk.answer_at(at)
    if turn is None:
        return
    held = desk.standing.ratings.get(turn.id)
    rating = desk.standing.rating(turn.id)
    if held is not None and rating is not None and rating.value == value:
        await take_back(desk, held)
        return
    said = await _say(desk, Rating(kind="rating", user=desk.visitor, turn_id=turn.id, value=value))
    desk.panel = Panel(value, at)
    desk.notice = Notice("Thank you. You can add why.", said=said)


async def explain(desk: Desk, at: int, reasons: Sequence[str], comment: str) -> None:
    """Reasons and a comment for the thumb given at that place."""
    turn = desk.answer_at(at)
    rating = desk.standing.rating(turn.id) if turn else None
    if turn is None or rating is None:
        return
    known = UP_REASONS if rating.value == "up" else DOWN_REASONS
    said = await _say(
        desk,
        Rating(
            kind="rating",
            user=desk.visitor,
            turn_id=turn.id,
            value=rating.value,
            reasons=tuple(reason for reason in known if reason in reasons),
            comment=comment.strip()[:4000] or None,
        ),
    )
    desk.panel = None
    desk.notice = Notice("Thank you. Your reasons are noted.", said=said)


async def correct(desk: Desk, at: int, text: str) -> None:
    """What the answer at that place should have said; the conversation goes on with it."""
    turn = desk.answer_at(at)
    if turn is None or not text.strip():
        return
    if text.strip() in (turn.answer.strip(), desk.standing.edit(turn.id)):
        desk.panel = None
        desk.notice = Notice("Nothing was changed, so nothing was sent.")
        return
    said = await _say(desk, Edit(kind="edit", user=desk.visitor, turn_id=turn.id, text=text.strip()[:32_000]))
    desk.panel = None
    desk.notice = Notice("Thank you. This is kept as what the answer should have said.", said=said)


async def take_back(desk: Desk, said: Said) -> None:
    """Retract a statement. A comparison taken back is open again."""
    await _say(desk, Retract(kind="retract", user=desk.visitor, event_id=said.event_id), about=said)
    desk.panel = None
    desk.notice = Notice("Taken back.")


async def _say(desk: Desk, statement: Rating | Edit | Retract, about: Said | None = None) -> Said:
    said = await desk.given.gateway.say(statement, uuid.uuid4().hex)
    _remember(desk, said, about)
    desk.settle()
    return said


def _remember(desk: Desk, said: Said, about: Said | None = None) -> None:
    """Keep the words with the turns they are about; a retraction goes with what it retracts."""
    named = turns_named((about or said).statement)
    for turn_id in named:
        desk.words.setdefault(turn_id, []).append(said)


async def _unveiled(desk: Desk, turn: Turn) -> Turn:
    """The turn with its version, which of a duel is told after the vote."""
    if turn.version:
        return turn
    try:
        known = replace(turn, version=await desk.given.gateway.version_of(turn.id, desk.visitor))
    except UiError:  # The vote stands all the same.
        return turn
    desk.turns = [known if each.id == turn.id else each for each in desk.turns]
    desk.settle()
    return known


def _thanks(showing: Showing, choice: Choice) -> str:
    """What the choice has led to."""
    earlier, newer = ("first", "second") if showing.is_duel else ("earlier", "newer")
    goes_on = {Choice.tie: f"The {earlier} answer", Choice.both_bad: f"The {newer} answer"}
    return f"Thank you. {goes_on.get(choice, 'The answer you preferred')} goes on."


def _versions(kept: Turn, other: Turn) -> str:
    """Which version wrote which, as far as that is told."""
    if not kept.version or not other.version:
        return ""
    if kept.version == other.version:
        return f"Both are by {short_version(kept.version)}."
    return f"It is by {short_version(kept.version)}, the other by {short_version(other.version)}."
