"""Requests over kept connections, against servers that answer in every possible and impossible way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from serve.replicas.engine_wire import EngineWire, WireFailed

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def serving(answer: Handler) -> AsyncIterator[tuple[EngineWire, list[int]]]:
    """A wire to a server that reads a request and lets `answer` do the rest; the ports of its callers, as they came."""
    callers: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer.get_extra_info("peername")[1])
        try:
            while await request(reader):
                await answer(reader, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    wire = EngineWire(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/below/")
    try:
        yield wire, callers
    finally:
        wire.close()
        server.close()
        await server.wait_closed()


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"POST /below/path HTTP/1.1\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def asked(wire: EngineWire, body: bytes = b"{}") -> bytes:
    answer = await wire.post("/path", body)
    try:
        return await answer.read()
    finally:
        answer.close()


def says(raw: bytes) -> Handler:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return answer


async def test_a_whole_answer_leaves_its_connection_for_the_next_request() -> None:
    async with serving(says(WHOLE)) as (wire, callers):
        assert [await asked(wire) for _ in range(3)] == [b"ok"] * 3
        assert len(callers) == 1


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async with serving(says(WHOLE)) as (wire, callers):
        assert await asyncio.gather(*(asked(wire) for _ in range(5))) == [b"ok"] * 5
        assert len(callers) == 5


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_an_answer_is_the_same_wherever_the_network_cuts_it(size: int) -> None:
    raw = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (b"a" * 300, b"b", b"c" * 20)) + b"0\r\n\r\n"

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(raw), size):
            writer.write(raw[start : start + size])
            await asyncio.sleep(0)

    async with serving(answer) as (wire, callers):
        assert [await asked(wire) for _ in range(2)] == [b"a" * 300 + b"b" + b"c" * 20] * 2
        assert len(callers) == 1


async def test_an_answer_that_is_left_early_ends_its_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"1\r\na\r\n")
        assert await reader.read(1) == b""
        left.set()

    left = asyncio.Event()
    async with serving(answer) as (wire, _):
        coming = await wire.post("/path", b"{}")
        assert await coming.piece() == b"a"
        coming.close()
        await asyncio.wait_for(left.wait(), 5)


async def test_a_request_that_is_cancelled_before_its_answer_ends_its_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.set()
        assert await reader.read(1) == b""
        left.set()

    waiting, left = asyncio.Event(), asyncio.Event()
    async with serving(answer) as (wire, _):
        asking = asyncio.create_task(asked(wire))
        await waiting.wait()
        asking.cancel()
        await asyncio.wait_for(left.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_what_is_about_to_end_is_waited_for_and_keeps_its_connection() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"4\r\nDONE\r\n")
        await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async with serving(answer) as (wire, callers):
        for _ in range(2):
            coming = await wire.post("/path", b"{}")
            assert await coming.piece() == b"DONE"
            coming.nothing_follows = True
            coming.close()
            await asyncio.sleep(0.1)
        assert len(callers) == 1


async def test_what_came_before_a_cut_is_given_out_and_then_the_cut_is_told() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"1\r\na\r\n")
        await writer.drain()
        writer.close()

    async with serving(answer) as (wire, callers):
        for _ in range(2):
            coming = await wire.post("/path", b"{}")
            assert await coming.piece() == b"a"
            with pytest.raises(WireFailed, match="connection closed"):
                await coming.piece()
            coming.close()
        assert len(callers) == 2


@pytest.mark.parametrize(
    "raw", [b"what?\r\n\r\n", WHOLE + WHOLE, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot hex\r\n"]
)
async def test_a_connection_that_says_what_it_must_not_is_never_used_again(raw: bytes) -> None:
    async with serving(says(raw)) as (wire, callers):
        for _ in range(2):
            with suppress(WireFailed):
                assert await asked(wire) == b"ok"
            await asyncio.sleep(0.02)
        assert len(callers) == 2


async def test_nobody_there_is_told_by_its_name() -> None:
    async with serving(says(WHOLE)) as (wire, _):
        pass
    with pytest.raises(WireFailed, match="ConnectionRefusedError"):
        await wire.post("/path", b"{}")


async def test_an_engine_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"1\r\na\r\n")
        await reader.read(1)

    monkeypatch.setattr("serve.replicas.engine_wire._SILENCE_S", 0.05)
    async with serving(answer) as (wire, _):
        with pytest.raises(WireFailed, match="nothing came"):
            await asyncio.wait_for(asked(wire), 5)


async def test_an_answer_that_nobody_reads_is_not_taken_into_memory() -> None:
    sent = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        for _ in range(1000):
            writer.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            await writer.drain()
            sent += 0x8000
        writer.write(b"0\r\n\r\n")

    async with serving(answer) as (wire, _):
        coming = await wire.post("/path", b"{}")
        await asyncio.sleep(0.5)
        assert sent < 16 * 1024 * 1024, "the rest stays with the engine and in the kernel"
        assert len(await coming.read()) == 1000 * 0x8000
        coming.close()


async def test_a_connection_that_was_idle_for_long_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.replicas.engine_wire._IDLE_S", 0)
    async with serving(says(WHOLE)) as (wire, callers):
        assert [await asked(wire) for _ in range(2)] == [b"ok"] * 2
        assert len(callers) == 2


async def test_closing_the_wire_ends_what_runs() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with serving(answer) as (wire, _):
        asyncio.get_running_loop().call_later(0.05, wire.close)
        with pytest.raises(WireFailed, match="connection closed"):
            await asyncio.wait_for(asked(wire), 5)
