"""Mutated bodies against a gateway on a fake engine and a real Redis: no 5xx, nothing half-recorded, well afterwards.

`python -m tests.bench.mutated` sends 20,000 of them and ends with a JSON line; `make fuzz` runs it beside schemathesis.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from feedback.connection import connect
from feedback.ids import LineName, TenantId
from feedback.jobs import Announcement, JobStore
from feedback.ledger import Ledger
from feedback.schedule import ScheduleRules
from tests.fake_engine import fake_engine
from tests.serve.event_checker import Asked, check_stream
from tests.serve.mutations import mutant
from tests.services import ROOT, Gateway, start_gateway, start_redis, wait_until

LINE = LineName("burnish")
CHAT, COMPLETION, VOTE = "/v1/chat/completions", "/v1/completions", "/v1/feedback"
TYPES = (*["application/json"] * 8, "text/plain", "application/json; charset=utf-16", "")
ASK: dict[str, Any] = {"model": "burnish", "messages": [{"role": "user", "content": "hi"}]}
MAX_BODY_BYTES = 2 * 1024 * 1024
MOST_TURNS = 1_000_000


@dataclass
class Found:
    """What came of the requests; `turns` and `events` are those that the answers promise."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    turns: int = 0
    events: int = 0

    def add(self, other: "Found") -> None:
        self.statuses += other.statuses
        self.failures += other.failures
        self.turns += other.turns
        self.events += other.events


def valid_bodies(turns: tuple[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Each POST route with bodies that it takes (or would, were there something to move)."""
    why = {"reason": "a test"}
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        {"role": "assistant", "content": "yes", "tool_calls": None},
        {"role": "user", "content": "and é 🍌?"},
    ]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a{2}$"}}, "required": ["a"]}
    asked = {"model": "burnish", "max_tokens": 3}
    return [
        (CHAT, {**asked, "messages": messages, "n": 2, "temperature": 0.5, "seed": 7, "stop": ["x"], "user": "ann"}),
        (CHAT, {**asked, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {**asked, "messages": messages[:2], "tools": [tool], "tool_choice": "auto", "logit_bias": {"5": 1}}),
        (CHAT, {**asked, "messages": messages[:2], "logprobs": True, "top_logprobs": 2, "metadata": {"session": "s"}}),
        (
            CHAT,
            {
                **asked,
                "messages": [{"role": "user", "content": "hi"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            },
        ),
        (CHAT, {**ASK, "metadata": {"compare_with": turns[0]}}),
        (COMPLETION, {**asked, "prompt": "Once", "echo": True, "logprobs": 1, "min_tokens": 1, "store": True}),
        (COMPLETION, {**asked, "prompt": [1, 2, 3], "stream": True, "top_p": 0.5, "presence_penalty": 0.1}),
        (VOTE, {"kind": "rating", "turn_id": turns[0], "value": "up", "reasons": ["helpful"], "comment": "good"}),
        (
            VOTE,
            {
                "kind": "comparison",
                "turn_ids": list(turns),
                "verdict": "first",
                "shown": {"left": turns[0], "mode": "at_once", "ms": 5},
            },
        ),
        (VOTE, {"kind": "edit", "turn_id": turns[1], "text": "better"}),
        (VOTE, {"kind": "aspect", "turn_id": turns[1], "name": "helpful", "score": 4}),
        (VOTE, {"kind": "retract", "event_id": "ev-none", "user": "ann"}),
        ("/operator/rollback", why),
        ("/operator/policies/v0000-base/promote", {**why, "over": "v0000-base"}),
        ("/operator/policies/v0000-base/withdraw", why),
        ("/operator/policies/v0000-base/canary", {**why, "rules": {"share": 0.5}}),
        ("/operator/policies/v0000-base/retire", why),
        ("/operator/policies", {**why, "directory": "none"}),
        ("/operator/jobs", {**why, "recipe": "dpo"}),
        ("/operator/jobs/job-none/cancel", why),
    ]


def send(client: httpx.Client, seed: int, bodies: list[tuple[str, dict[str, Any]]]) -> Found:
    """One mutated body, and what came of it."""
    rng = random.Random(seed)
    path, valid = rng.choice(bodies)
    raw = mutant(rng, valid)
    try:
        answer = client.post(path, content=raw, headers={"content-type": rng.choice(TYPES)})
    except httpx.TransportError as error:
        # A 413 is sent before the body is read, and the close that follows it can overtake it.
        too_long = len(raw) > MAX_BODY_BYTES
        return Found(Counter([413]), [] if too_long else [f"seed {seed}, {path}: {error!r}; body {raw[:300]!r}"])
    found = Found(Counter([answer.status_code]))
    problem = _problem(answer)
    if problem:
        found.failures.append(f"seed {seed}, {path}, {answer.status_code}: {problem}; body {raw[:300]!r}")
    if answer.status_code < 300 and path in (CHAT, COMPLETION):
        found.turns = _turns_of(json.loads(raw))
    found.events = int(answer.status_code == 201 and path == VOTE)
    return found


def _problem(answer: httpx.Response) -> str | None:
    if answer.status_code == 503 and answer.json()["error"]["code"] == "import_running":
        # One import at a time: of several sent at once the others are told to come again.
        return None if "retry-after" in answer.headers else "no Retry-After"
    if answer.status_code >= 500:
        return f"a 5xx: {answer.text[:200]}"
    if "x-request-id" not in answer.headers:
        return "no x-request-id"
    if answer.status_code >= 400:
        error = answer.json().get("error", {})
        return None if error.keys() == {"message", "type", "param", "code"} else f"no error object: {answer.text[:200]}"
    if answer.headers["content-type"].startswith("text/event-stream"):
        return "no whole stream" if b"data: [DONE]\n\n" not in answer.content else None
    return None if answer.headers["content-type"].startswith("application/json") else answer.headers["content-type"]


def _turns_of(body: dict[str, Any]) -> int:
    """How many turns an accepted request promises: one for each choice, unless store is false."""
    return 0 if body.get("store") is False else body.get("n") or 1


def fuzz(gateway: Gateway, count: int, at_once: int = 8) -> Found:
    """Sends `count` mutated bodies and then looks whether the ledger holds what was promised, and no more."""
    ledger = Ledger(connect(gateway.redis_url), LINE)
    with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=60) as client:
        first, second = (client.post(CHAT, json=ASK).json()["id"] for _ in range(2))
        bodies = valid_bodies((first, second))
        for path, body in bodies:
            answer = client.post(path, json=body)
            fits = answer.status_code in (200, 201, 404, 409) or answer.json()["error"]["code"] == "adapter_refused"
            assert fits, f"{body} is not valid: {answer.text}"
        turns, events = _held(ledger)
        found = Found()
        with ThreadPoolExecutor(at_once) as pool:
            for one in pool.map(lambda seed: send(client, seed, bodies), range(count)):
                found.add(one)
        wait_until(
            lambda: _held(ledger) == (turns + found.turns, events + found.events),
            within_s=10,
            what=lambda: f"turns and events are {_held(ledger)}, not {(turns + found.turns, events + found.events)}",
        )
        _still_well(client, found)
    return found


def _held(ledger: Ledger) -> tuple[int, int]:
    return len(ledger.turns_of(TenantId("home"), limit=MOST_TURNS)), ledger.last_ordinal()


def _still_well(client: httpx.Client, found: Found) -> None:
    if client.get("/readyz").status_code != 200 or client.post(CHAT, json=ASK).status_code != 200:
        found.failures.append("the gateway does not answer well afterwards")
    if breaches := check_stream(client.post(CHAT, json={**ASK, "stream": True}).content, Asked()).breaches:
        found.failures.append(f"a stream afterwards: {breaches}")


@contextmanager
def place(folder: Path, model: Path) -> Iterator[Gateway]:
    """A gateway on a fake engine, with a worker's announcement, so that jobs can be asked for."""
    with (
        fake_engine() as fake,
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, fake.url, model=model) as gateway,
    ):
        announce(gateway)
        yield gateway


def announce(gateway: Gateway) -> None:
    rules = ScheduleRules(min_pairs=1_000_000)
    offered = Announcement(recipes={"dpo": {}}, default_recipe="dpo", rules=rules, code_version="c", at=0)
    JobStore(connect(gateway.redis_url), LINE).announce(offered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, place(Path(folder), args.model) as gateway:
        found = fuzz(gateway, args.count)
    for failure in found.failures[:30]:
        print(failure)
    accepted = {"turns": found.turns, "events": found.events}
    statuses = {str(status): number for status, number in sorted(found.statuses.items())}
    print(json.dumps({"bodies": args.count, "failures": len(found.failures), **accepted, "statuses": statuses}))


if __name__ == "__main__":
    main()
