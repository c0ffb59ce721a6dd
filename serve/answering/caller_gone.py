"""Ends a piece of work at once when the caller of the request leaves."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class CallerGone(Exception):
    """The caller closed the connection before the answer was whole."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. When the caller leaves first, `work` is cancelled, waited for, and CallerGone is raised.

    The request's body must have been read before: what `receive` still brings is taken for a farewell. The work stays
    in the caller's own task, for every request would pay for another one.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    def interrupt(_: asyncio.Task[None]) -> None:
        nonlocal gone
        gone = True
        working.cancel()

    leaving = asyncio.create_task(_left(receive))
    leaving.add_done_callback(interrupt)
    try:
        return await work
    except asyncio.CancelledError:
        # Somebody else may have cancelled this task too, and is to be obeyed.
        if gone and working.uncancel() == 0:
            raise CallerGone from None
        raise
    finally:
        leaving.remove_done_callback(interrupt)
        leaving.cancel()


async def _left(receive: Receive) -> None:
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass
