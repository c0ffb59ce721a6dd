"""Cutting a byte stream into events, wherever the network happened to cut it."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from serve.answering.events import DONE, DONE_EVENT, event, split_events


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.integers(1, 30), max_size=40))
def test_events_survive_any_cuts(texts: list[str], cuts: list[int]) -> None:
    stream = b"".join(event({"text": text}) for text in texts) + b": keep-alive\n\n" + DONE_EVENT
    payloads, rest = [], b""
    while stream:
        size = cuts.pop() if cuts else len(stream)
        found, rest = split_events(rest + stream[:size])
        payloads += found
        stream = stream[size:]
    assert rest == b""
    assert payloads[-1] == DONE
    assert [orjson.loads(payload)["text"] for payload in payloads[:-1]] == texts
