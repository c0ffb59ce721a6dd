"""Work that ends when its caller leaves, in every order in which the two can come."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive

from serve.answering.caller_gone import CallerGone, unless_gone


def leaving_when(moment: asyncio.Event) -> Receive:
    async def receive() -> Message:
        await moment.wait()
        return {"type": "http.disconnect"}

    return receive


async def work(ended: list[str], until: Callable[[], bool] = lambda: False) -> str:
    try:
        while not until():  # noqa: ASYNC110 - what ends it is said from outside
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)  # closing takes a moment, and is waited for
        ended.append("ended")
    return "done"


async def test_work_that_ends_first_gives_its_result_and_nothing_is_left_behind() -> None:
    ended: list[str] = []
    assert await unless_gone(leaving_when(asyncio.Event()), work(ended, lambda: True)) == "done"
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert ended == ["ended"]


async def test_a_caller_who_leaves_ends_the_work_and_the_task_goes_on() -> None:
    moment, ended = asyncio.Event(), list[str]()
    asyncio.get_running_loop().call_soon(moment.set)
    with pytest.raises(CallerGone):
        await unless_gone(leaving_when(moment), work(ended))
    assert ended == ["ended"]
    await asyncio.sleep(0)  # would raise if this task were still being cancelled


async def test_a_failure_of_the_work_is_raised_as_it_is() -> None:
    async def failing() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await unless_gone(leaving_when(asyncio.Event()), failing())


@pytest.mark.parametrize("leaves_too", [True, False])
async def test_whoever_cancels_the_whole_request_is_obeyed(leaves_too: bool) -> None:
    moment, ended = asyncio.Event(), list[str]()
    task = asyncio.create_task(unless_gone(leaving_when(moment), work(ended)))
    await asyncio.sleep(0)
    if leaves_too:
        moment.set()
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]


async def test_a_connection_that_breaks_is_a_caller_who_left() -> None:
    async def receive() -> Message:
        raise ConnectionResetError

    ended: list[str] = []
    with pytest.raises(CallerGone):
        await unless_gone(receive, work(ended))
