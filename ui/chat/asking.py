"""The acts that ask the model for an answer, written into a desk as it comes.

Each is a generator that yields whenever there is something new to draw, some twelve times a second at most. A desk
that has moved on to another conversation meanwhile is left alone.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ui.chat.conversations import STOPPED, Message, Turn
from ui.chat.desk import Desk, Notice, Writing
from ui.errors import UiError, sentence
from ui.gateway import Ask, Piece

REPAINT_S = 0.08
SAME_AGAIN = "The second answer is word for word the same, so there is nothing to compare."

Steps = AsyncGenerator[None, None]


def send(desk: Desk, text: str) -> Steps:
    """Ask the next thing, together with what has no answer yet. Of a pair without a verdict the earlier goes on."""
    if not text.strip() or not _free(desk):
        return _nothing()
    if desk.unsent:
        *before, last = desk.unsent
        return _ask(desk, (*before, Message("user", f"{last.text}\n\n{text.strip()}")))
    desk.skip()
    return _ask(desk, (*desk.path.messages, Message("user", text.strip())))


def resend(desk: Desk) -> Steps:
    """Ask again what could not be answered."""
    return _ask(desk, desk.unsent) if desk.unsent and _free(desk) else _nothing()


def change_message(desk: Desk, at: int, text: str) -> Steps:
    """Say an earlier message anew; the conversation goes on from there."""
    messages = desk.on_screen()
    is_own = 0 <= at < len(messages) and messages[at].role == "user"
    if not is_own or not text.strip() or not _free(desk):
        return _nothing()
    return _ask(desk, (*messages[:at], Message("user", text.strip())))


def regenerate(desk: Desk) -> Steps:
    """Ask for a second answer to the last message, to stand beside the first.

    One that was stopped is not whole, so it is not compared: the new one takes its place.
    """
    tip = desk.path.tip
    if tip is None or not _free(desk):
        return _nothing()
    return _ask(desk, tip.messages, compare_with=None if tip.finish_reason == STOPPED else tip)


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


async def _ask(desk: Desk, asked: tuple[Message, ...], compare_with: Turn | None = None) -> Steps:
    writing = desk.writing = Writing(desk.session, asked, compare_with)
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
        elif writing.turn_id:
            desk.turns.append(_turn(desk, writing))
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
            if len(writing.text) > drawn and not taking.done():
                drawn = len(writing.text)
                yield
        if taking.done():
            taking.result()
    finally:
        taking.cancel()
        stopping.cancel()
        await asyncio.gather(taking, stopping, return_exceptions=True)


async def _take(pieces: AsyncGenerator[Piece, None], writing: Writing) -> None:
    async for piece in pieces:
        writing.text += piece.text
        writing.turn_id, writing.version = piece.turn_id, piece.version
        writing.finish_reason = piece.finish_reason or writing.finish_reason


def _keep(desk: Desk, writing: Writing, failure: UiError | None) -> None:
    """Put what was written into the conversation; what could not be answered stays as not sent."""
    if writing.compare_with is not None:
        _keep_second(desk, writing, failure)
        return
    if failure is not None or not (writing.text or writing.finish_reason):
        desk.unsent = writing.asked
        desk.notice = Notice(sentence(failure), bad=True) if failure else Notice("Stopped before it began.")
        return
    desk.turns.append(_turn(desk, writing))
    desk.settle()


def _keep_second(desk: Desk, writing: Writing, failure: UiError | None) -> None:
    """A whole second answer stands beside the first; a broken or a stopped one is put away."""
    if failure is not None or writing.finish_reason is None or writing.stop.is_set():
        desk.take_off(frozenset({writing.turn_id} - {""}))
        desk.notice = Notice(sentence(failure), bad=True) if failure else Notice("Stopped. The first answer stays.")
        return
    desk.turns.append(_turn(desk, writing))
    desk.settle()
    if desk.comparing is None:
        desk.take_off(frozenset({writing.turn_id}))
        desk.notice = Notice(SAME_AGAIN)


def _turn(desk: Desk, writing: Writing) -> Turn:
    older = writing.compare_with
    return Turn(
        id=writing.turn_id,
        session=writing.session,
        version=writing.version,
        messages=writing.asked,
        answer=writing.text,
        finish_reason=writing.finish_reason or STOPPED,
        sampling=older.sampling if older else desk.given.sampling,
        compare_with=older.id if older else None,
    )
