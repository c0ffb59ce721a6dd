"""A TCP hop that cuts answers off after so many bytes, or lets them through in crumbs: a network that is not well."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ASKED = b"POST /v1/"


@dataclass
class CuttingLink:
    """Forwards to `target`; of connections that ask for an answer, `cut_at()` says after how many bytes they end.

    None cuts nothing. `crumb_bytes` is how many bytes go on at once. asyncio refers to tasks and stream readers weakly
    and forgets a transport at its end of file: `serving` is what keeps a half-closed connection's task alive.
    """

    target: tuple[str, int]
    port: int = 0
    cut_at: Callable[[], int | None] = lambda: None
    crumb_bytes: int = 65536
    cuts: int = 0
    serving: set[asyncio.Task[None] | None] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, task = None, asyncio.current_task()
        self.serving.add(task)
        try:
            there, back = await asyncio.open_connection(*self.target)
            asked = asyncio.Event()
            upward = asyncio.create_task(_pass_on(reader, back, asked))
            cut = await self._downward(there, writer, asked)
            upward.cancel()
            if cut:
                writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            if back is not None:
                back.transport.abort()
                back.close()
            writer.close()
            self.serving.discard(task)

    async def _downward(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> bool:
        left = None
        while content := await there.read(self.crumb_bytes):
            if asked.is_set():
                asked.clear()
                left = self.cut_at()
                left = 1 << 60 if left is None else left
            if left is not None and left <= len(content):
                writer.write(content[:left])
                await writer.drain()
                self.cuts += 1
                return True
            writer.write(content)
            await writer.drain()
            left = None if left is None else left - len(content)
        return False


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
    with suppress(OSError):
        while content := await reader.read(65536):
            if content.startswith(ASKED):
                asked.set()
            writer.write(content)
            await writer.drain()
        writer.write_eof()


@contextmanager
def cutting_link(url: str) -> Iterator[CuttingLink]:
    at = urlsplit(url)
    link = CuttingLink((at.hostname or "127.0.0.1", at.port or 80))
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(link.serve_one, "127.0.0.1", 0)
        link.port = server.sockets[0].getsockname()[1]
        started.set()
        return server

    async def stop(server: asyncio.Server) -> None:
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(stop(server))
        loop.close()

    thread = threading.Thread(target=run, name="cutting-link")
    thread.start()
    started.wait()
    try:
        yield link
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
