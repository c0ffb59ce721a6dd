"""The acts that ask the model for an answer, written into a desk as it comes.

Each is a generator that yields whenever there is something new to draw, some twelve times a second at most. A desk
that has moved on to another conversation meanwhile is left alone.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ui.bodies import Ask, Piece
from ui.chat.conversations import STOPPED, Message, Turn
from ui.chat.desk import Desk, Draft, Notice, Writing
from ui.errors import UiError, sentence

REPAINT_S = 0.08
SAME_AGAIN = "The second answer is word for word the same, so there is nothing to compare."
SAME_TWICE = "Two answers were written, word for word the same, so there is nothing to compare."
HALF_A_DUEL = "Stopped, so there is nothing to compare. The first of the two answers stays."

Steps = AsyncGenerator[None, None]


def send(desk: Desk, text: str) -> Steps:
    """Ask the next thing, together with what has no answer yet. Of a pair without a verdict the earlier goes on."""
    if not text.strip() or not _free(desk):
        return _nothing()
    if desk.unsent:
        *before, last = desk.unsent
        return _question(desk, (*before, Message("user", f"{last.text}\n\n{text.strip()}")))
    desk.skip()
    return _question(desk, (*desk.path.messages, Message("user", text.strip())))


def resend(desk: Desk) -> Steps:
    """Ask again what could not be answered."""
    return _question(desk, desk.unsent) if desk.unsent and _free(desk) else _nothing()


def change_message(desk: Desk, at: int, text: str) -> Steps:
    """Say an earlier message anew; the conversation goes on from there."""
    messages = desk.on_screen()
    is_own = 0 <= at < len(messages) and messages[at].role == "user"
    if not is_own or not text.strip() or not _free(desk):
        return _nothing()
    return _question(desk, (*messages[:at], Message("user", text.strip())))


def regenerate(desk: Desk) -> Steps:
    """Ask for a second answer to the last message, to stand beside the first.

    One that was stopped is not whole, so it is not compared: the new one takes its place.
    """
    tip = desk.path.tip
    if tip is None or not _free(desk):
        return _nothing()
    older = None if tip.finish_reason == STOPPED else tip
    return _ask(desk, Writing(desk.session, tip.messages, older))


def stop(desk: Desk) -> None:
    if desk.writing is not None:
        desk.writing.stop.set()


def _free(desk: Desk) -> bool:
    if desk.writing is not None:
        desk.notice = Notice("One answer at a time: stop the one being written first.", bad=True)
    return desk.writing is None


async def _nothing() -> Steps:
    return
    yield


def _question(desk: Desk, asked: tuple[Message, ...]) -> Steps:
    """Ask something new, which chance may have answered by two."""
    return _ask(desk, Writing(desk.session, asked, may_duel=True))


async def _ask(desk: Desk, writing: Writing) -> Steps:
    desk.writing = writing
    desk.panel = desk.notice = None
    desk.unsent = ()
    yield
    failure: UiError | None = None
    try:
        async with aclosing(_pieces(desk, writing)) as pieces, aclosing(_follow(pieces, writing)) as following:
            async for _ in following:
                yield
    except UiError as error:
        failure = error
    finally:
        here = desk.writing is writing
        if here:
            desk.writing = None
            _keep(desk, writing, failure)
        else:
            desk.turns += [_turn(desk, writing, draft) for draft in writing.drafts if draft.turn_id]
    if here:
        yield


def _pieces(desk: Desk, writing: Writing) -> AsyncGenerator[Piece, None]:
    older = writing.compare_with
    sampling = dict(older.sampling if older and older.sampling else desk.given.sampling)
    sampling.pop("seed", None)
    ask = Ask(
        model=desk.given.model,
        messages=writing.asked,
        user=desk.visitor,
        session=writing.session,
        sampling=sampling,
        compare_with=older.id if older else None,
        may_duel=writing.may_duel,
    )
    return desk.given.gateway.answer(ask)


async def _follow(pieces: AsyncGenerator[Piece, None], writing: Writing) -> Steps:
    """Take pieces until the answer ends or is stopped, yielding at the pace of the screen."""
    taking = asyncio.create_task(_take(pieces, writing))
    stopping = asyncio.create_task(writing.stop.wait())
    drawn = 0
    try:
        while not taking.done() and not stopping.done():
            await asyncio.wait({taking, stopping}, timeout=REPAINT_S, return_when=asyncio.FIRST_COMPLETED)
            come = len(writing.text) + sum(draft.has_come for draft in writing.drafts)
            if come > drawn and not taking.done():
                drawn = come
                yield
        if taking.done():
            taking.result()
    finally:
        taking.cancel()
        stopping.cancel()
        await asyncio.gather(taking, stopping, return_exceptions=True)


async def _take(pieces: AsyncGenerator[Piece, None], writing: Writing) -> None:
    async for piece in pieces:
        if piece.beside is not None and not writing.is_duel:
            pair = {piece.index: piece.turn_id, 1 - piece.index: piece.beside}
            writing.drafts = (Draft(pair[0]), Draft(pair[1]))
        draft = writing.drafts[piece.index]
        draft.text += piece.text
        draft.turn_id, draft.version = piece.turn_id, piece.version
        draft.finish_reason = piece.finish_reason or draft.finish_reason


def _keep(desk: Desk, writing: Writing, failure: UiError | None) -> None:
    """Put what was written into the conversation; what could not be answered stays as not sent."""
    if writing.compare_with is not None:
        _keep_second(desk, writing, failure)
        return
    come = [_turn(desk, writing, draft) for draft in writing.drafts if draft.has_come]
    if failure is not None or not come:
        desk.unsent = writing.asked
        desk.notice = Notice(sentence(failure), bad=True) if failure else Notice("Stopped before it began.")
        return
    desk.turns += come
    desk.settle()
    if writing.is_duel and not writing.is_whole:
        _end_duel(desk, writing)
    elif writing.is_duel and desk.comparing is None:
        desk.notice = Notice(SAME_TWICE)


def _end_duel(desk: Desk, writing: Writing) -> None:
    """Half an answer is not compared. The ledger may hold more of it than the screen, so it is put away by name."""
    first, second = writing.drafts
    gone = first if second.text.strip() and not first.text.strip() else second
    desk.take_off(frozenset({gone.turn_id}))
    if gone is second and second.has_come:
        desk.notice = Notice(HALF_A_DUEL)


def _keep_second(desk: Desk, writing: Writing, failure: UiError | None) -> None:
    """A whole second answer stands beside the first; a broken or a stopped one is put away."""
    if failure is not None or not writing.is_whole or writing.stop.is_set():
        desk.take_off(frozenset({writing.first.turn_id} - {""}))
        desk.notice = Notice(sentence(failure), bad=True) if failure else Notice("Stopped. The first answer stays.")
        return
    desk.turns.append(_turn(desk, writing, writing.first))
    desk.settle()
    if desk.comparing is None:
        desk.take_off(frozenset({writing.first.turn_id}))
        desk.notice = Notice(SAME_AGAIN)


def _turn(desk: Desk, writing: Writing, draft: Draft) -> Turn:
    """What was written, as a turn; a duel's second is one that is compared with its first."""
    older = writing.compare_with
    compare_with = older.id if older else None
    return Turn(
        id=draft.turn_id,
        session=writing.session,
        version=draft.version,
        messages=writing.asked,
        answer=draft.text,
        finish_reason=draft.finish_reason or STOPPED,
        sampling=older.sampling if older else desk.given.sampling,
        compare_with=compare_with if draft is writing.first else writing.first.turn_id,
        duel=writing.is_duel,
    )
