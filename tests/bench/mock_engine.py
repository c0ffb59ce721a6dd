"""A stand-in for vLLM that is faster than any gateway before it: `python -m tests.bench.mock_engine PORT STEP_MS`.

The last message says what is answered: "16 at once" or "128 in steps" (one event of every stream each STEP_MS, as an
engine decodes its batch). Events have vLLM's shape, token ids included where they are asked for.
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import httptools
import orjson
import uvloop

BASE = "v0000-base"
WORD = " word"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


class Steps:
    """What each running stream has yet to send: one piece of each goes out in every step."""

    def __init__(self) -> None:
        self.running: dict[asyncio.Transport, Iterator[bytes]] = {}

    async def run(self, step_s: float) -> None:
        while True:
            await asyncio.sleep(step_s)
            for transport, pieces in [*self.running.items()]:
                piece = next(pieces, None)
                if piece is None or transport.is_closing():
                    del self.running[transport]
                else:
                    transport.write(piece)


class Connection(asyncio.Protocol):
    """One connection of a gateway or of a client: requests one after another."""

    transport: asyncio.Transport

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.body: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport  # uvloop's own, which is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url, self.body = url, []

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        if not self.url.endswith(b"/chat/completions"):
            self.transport.write(_whole(_MODELS))
            return
        asked = orjson.loads(b"".join(self.body))
        count, _, manner = asked["messages"][-1]["content"].partition(" ")
        if not asked.get("stream"):
            self.transport.write(_whole(_answer(asked, int(count))))
            return
        pieces = _pieces(asked, int(count))
        self.transport.write(_STREAM_HEAD + next(pieces))
        if manner == "in steps":
            self.steps.running[self.transport] = pieces
            return
        for piece in pieces:
            self.transport.write(piece)


_CARD = {"id": BASE, "object": "model", "parent": None, "root": "/model", "max_model_len": 8192}
_MODELS = {"object": "list", "data": [_CARD]}
_HEAD = {"id": "chatcmpl-of-the-engine", "object": "chat.completion.chunk", "created": 1790000000, "model": BASE}


def _pieces(asked: dict[str, Any], count: int) -> Iterator[bytes]:
    """An answer's events as the chunks of an HTTP body, the last with the end of it."""
    ids = bool(asked.get("return_token_ids"))
    opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    yield _chunk({**_HEAD, "choices": [opening], **({"prompt_token_ids": [1, 2, 3]} if ids else {})})
    token = {"index": 0, "delta": {"content": WORD}, "logprobs": None, "finish_reason": None}
    last = {**token, "finish_reason": "length", "stop_reason": None}
    given = {"token_ids": [17]} if ids else {}
    middle = _chunk({**_HEAD, "choices": [{**token, **given}]})
    for _ in range(count - 1):
        yield middle
    yield _chunk({**_HEAD, "choices": [{**last, **given}]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield _chunk({**_HEAD, "choices": [], "usage": _usage(count)})
    yield _framed(b"data: [DONE]\n\n") + _END


def _answer(asked: dict[str, Any], count: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": WORD * count, "reasoning": None, "tool_calls": []}
    choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    ids = {"prompt_token_ids": [1, 2, 3]} if asked.get("return_token_ids") else {}
    if ids:
        choice["token_ids"] = [17] * count
    return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(count), **ids}


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}


def _chunk(event: dict[str, Any]) -> bytes:
    return _framed(b"data: " + orjson.dumps(event) + b"\n\n")


def _framed(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def _whole(content: dict[str, Any]) -> bytes:
    body = orjson.dumps(content)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def serve(port: int, step_s: float) -> None:
    steps = Steps()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(steps), "127.0.0.1", port)
    await steps.run(step_s)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
