"""Server-sent events as bytes: cutting the engine's stream into payloads, and writing our own. Pure."""

from typing import Any

import orjson

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"


def split_events(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The payloads of all whole `data:` events in `buffer`, in order, and the unfinished rest.

    Comments (keep-alive lines) are dropped. A network chunk may end anywhere, also inside a character.
    """
    *blocks, rest = buffer.split(b"\n\n")
    payloads = []
    for block in blocks:
        line = block.lstrip(b"\r\n")
        if line.startswith(b"data:"):
            payloads.append(line[5:].strip())
    return payloads, rest


def event(content: Any) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
