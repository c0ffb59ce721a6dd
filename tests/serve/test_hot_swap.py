"""Swaps on a real engine while streams run: nothing lost, nothing mixed; and an engine that is killed comes back."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from feedback.ids import Version
from tests.serve.conftest import ask
from tests.serve.publish import Publisher
from tests.serve.reference import Reference
from tests.serve.replicas.test_swap import WHY, go_live, live_now, load_of
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, streamed, text_of
from tests.services import Gateway, free_port, start_engine, start_gateway, wait_until

PROMPTS = ("Tell me about bread.", "Tell me about rain.", "Tell me about the sea.", "Tell me about trains.")

A_TIE = 0.5
"""Nats by which a greedy choice may lie behind the best when it is computed in another batch."""


@dataclass
class Chatter:
    """Streams that ask one question after another until told to stop."""

    url: str
    key: str
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, prompt: str) -> None:
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=120) as client:
            while not self.stop.is_set():
                try:
                    self.answers.append(self.answer(client, prompt))
                except (AssertionError, httpx.HTTPError, KeyError) as error:
                    self.failures.append(repr(error))

    def answer(self, client: httpx.Client, prompt: str) -> dict[str, Any]:
        at = time.monotonic()
        events = streamed(client, ask(prompt, max_tokens=24, temperature=0, return_token_ids=True))
        assert events[-1] == "[DONE]", events[-1]
        (model,) = {event["model"] for event in events[:-1]}
        choices = [choice for event in events[:-1] for choice in event["choices"]]
        return {
            "at": at,
            "version": model.removeprefix("burnish@"),
            "text": text_of(events),
            "prompt": events[0]["prompt_token_ids"],
            "tokens": [token for choice in choices for token in choice.get("token_ids", ())],
        }


@pytest.fixture(scope="module")
def reference(model_dir: Path, strong_adapters: tuple[Path, Path], two_adapters: tuple[Path, Path]) -> Reference:
    """Log-probs computed by transformers, before anything else needs the cores."""
    made = Reference(model_dir)
    for adapter in (*strong_adapters, *two_adapters):
        made(Version("not yet"), adapter)
    return made


@pytest.fixture
def real_publisher(real_gateway: Gateway, model_dir: Path, reference: Reference) -> Publisher:
    return Publisher(real_gateway.home, real_gateway.redis_url, model_dir, reference)


@pytest.fixture
def chatter(real_gateway: Gateway) -> Iterator[Chatter]:
    made = Chatter(real_gateway.url, real_gateway.key("page"))
    threads = [threading.Thread(target=made.run, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop.set()
        for thread in threads:
            thread.join()


def first_choices(client: httpx.Client, version: str, answer: dict[str, Any]) -> float:
    """Share of an answer's tokens that a version would have chosen greedily too, given those before.

    The best within A_TIE: of tokens that are as good, one batch takes this and another that (bf16).
    """
    prompt, tokens = answer["prompt"], answer["tokens"]
    body = {
        "model": f"burnish@{version}",
        "prompt": [*prompt, *tokens],
        "max_tokens": 1,
        "prompt_logprobs": 1,
        "store": False,
    }
    rows = client.post("/v1/completions", json=body).json()["choices"][0]["prompt_logprobs"]
    behind = [
        max(each["logprob"] for each in row.values()) - row[str(token)]["logprob"]
        for token, row in zip(tokens, rows[len(prompt) :], strict=True)
    ]
    return sum(nats <= A_TIE for nats in behind) / len(behind)


def answers_of(chatter: Chatter, version: str) -> int:
    return sum(answer["version"] == version for answer in chatter.answers)


def wait_answers(chatter: Chatter, version: str, count: int) -> None:
    wait_until(lambda: answers_of(chatter, version) >= count, within_s=120, what=f"{count} answers of {version}")


def test_swaps_under_streams_lose_and_mix_nothing(
    real_publisher: Publisher, chatter: Chatter, real_api: httpx.Client, strong_adapters: tuple[Path, Path]
) -> None:
    wait_answers(chatter, "v0000-base", 4)
    one = go_live(real_api, real_publisher, strong_adapters[0])
    wait_answers(chatter, one, 4)
    two = go_live(real_api, real_publisher, strong_adapters[1])
    wait_answers(chatter, two, 4)
    assert {load_of(real_api, version)["state"] for version in (one, two)} == {"loaded"}
    asked_at = time.monotonic()
    assert real_api.post("/operator/rollback", json=WHY).status_code == 200
    rolled_back_at = time.monotonic()
    assert live_now(real_api) == one
    wait_answers(chatter, one, answers_of(chatter, one) + 4)
    chatter.stop.set()

    assert chatter.failures == []
    late = [a for a in chatter.answers if a["version"] == two and a["at"] > rolled_back_at]
    assert late == [], f"{len(late)} requests that began after the rollback got the withdrawn version"
    assert rolled_back_at - asked_at <= 1
    versions = ("v0000-base", one)
    for version in versions:
        mine = [answer for answer in chatter.answers if answer["version"] == version and answer["tokens"]]
        for answer in mine:
            shares = {other: first_choices(real_api, other, answer) for other in versions}
            assert shares[version] == 1, (version, answer["text"], shares)
            assert max(shares, key=lambda other: shares[other]) == version, (answer["text"], shares)


def test_an_adapter_that_was_trained_otherwise_is_refused_by_its_log_probs(
    real_api: httpx.Client, real_publisher: Publisher, two_adapters: tuple[Path, Path], reference: Reference
) -> None:
    def of_another(version: Version, directory: Path) -> Any:
        return reference(version, two_adapters[1])

    version = replace(real_publisher, probing=of_another).publish(two_adapters[0])
    wait_until(lambda: load_of(real_api, version).get("state") == "refused", within_s=60, what="it is refused")
    assert "not the adapter that the manifest was written for" in load_of(real_api, version)["error"]
    assert error_of(real_api.post(f"/operator/policies/{version}/promote", json=WHY), 409)["code"] == "adapter_refused"


@pytest.mark.parametrize("stream", [True, False])
def test_callers_who_vanish_free_the_engine(
    real_gateway: Gateway, real_api: httpx.Client, engine: Any, stream: bool
) -> None:
    def busy() -> float:
        page = httpx.get(f"{engine.url}/metrics", timeout=30).text
        rows = [
            line for line in page.splitlines() if line.startswith(("vllm:num_requests_running", "vllm:num_requests_w"))
        ]
        return sum(float(line.rpartition(" ")[2]) for line in rows if "by_reason" not in line)

    heard = [b""] * 4
    long = ask("Write a long story about a lighthouse.", max_tokens=1500, ignore_eos=True, stream=stream)
    with ExitStack() as calls:
        callers = [calls.enter_context(call_and_wait(real_gateway, long)) for _ in heard]

        def taken() -> bool:
            heard[:] = [before + said(caller) for before, caller in zip(heard, callers, strict=True)]
            begun = sum(map(bool, heard))  # of whole answers those that have come to their end
            return begun + (0 if stream else busy()) >= len(callers)

        wait_until(taken, within_s=60, what=lambda: f"all are in the engine; heard: {heard}")
        assert busy() > 0, heard
    wait_until(lambda: busy() == 0, within_s=10, what="the engine is idle")


def call_and_wait(gateway: Gateway, body: dict[str, Any]) -> socket.socket:
    """Sends a chat request over a connection of its own and reads nothing of the answer."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    payload = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {gateway.key()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    caller = socket.create_connection((host, int(port)), timeout=30)
    caller.sendall(head.encode() + payload)
    return caller


def said(caller: socket.socket) -> bytes:
    """What has come back since it was last asked."""
    caller.setblocking(False)
    try:
        return caller.recv(1 << 20)
    except BlockingIOError:
        return b""


@pytest.mark.engine
def test_an_engine_killed_with_kill_9_comes_back_with_the_live_version(
    tmp_path: Path, redis_url: str, model_dir: Path, strong_adapters: tuple[Path, Path], reference: Reference
) -> None:
    port, home = free_port(), tmp_path / "home"
    url = f"http://127.0.0.1:{port}"
    with start_gateway(home, redis_url, url, model=model_dir, ready="/healthz") as gateway:
        publisher = Publisher(home, redis_url, model_dir, reference)
        with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=120) as api:
            assert error_of(api.post(CHAT, json=ask()), 503)["code"] == "engine_unavailable"
            with start_engine(home, model_dir, port=port):
                wait_until(lambda: api.get("/readyz").status_code == 200, within_s=60, what="ready")
                version = go_live(api, publisher, strong_adapters[0])
                assert live_now(api) == version
                kill_listener(port)
                answer = api.post(CHAT, json=ask())
                assert error_of(answer, 503)["code"] == "engine_unavailable"
                assert answer.headers["retry-after"]
            with start_engine(home, model_dir, port=port):
                statuses = set()

                def answers() -> bool:
                    answer = api.post(CHAT, json=ask(max_tokens=4))
                    statuses.add(answer.status_code)
                    return answer.status_code == 200 and answer.headers["x-burnish-policy"] == version

                wait_until(answers, within_s=120, what="the live version answers again")
                assert statuses <= {200, 503}


def kill_listener(port: int) -> None:
    """kill -9 of the process of ours that serves on a port."""
    for child in psutil.Process().children(recursive=True):
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in child.net_connections()):
            child.kill()
            child.wait()
            return
    raise AssertionError(f"nobody listens on {port}")
