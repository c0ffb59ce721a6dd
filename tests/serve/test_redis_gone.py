"""Redis killed under a running gateway: chat goes on, votes are refused, nothing accepted is lost."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.redis_server import redis_command
from feedback.connection import connect, is_up
from tests.fake_engine import FakeEngine
from tests.serve.conftest import ask
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, streamed
from tests.services import free_port, start_gateway, wait_until


@dataclass
class MortalRedis:
    """A durable Redis that can be killed and started again on the same port and folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(redis_command(self.folder, self.port), stdout=subprocess.DEVNULL)
        client = connect(self.url)
        wait_until(lambda: is_up(client), within_s=20, what="Redis answers")
        client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def mortal_redis(directory: Path) -> Iterator[MortalRedis]:
    """A running one, gone when the block ends, whatever was done to it."""
    server = MortalRedis(directory)
    server.start()
    yield server
    server.thaw() if server.process and server.process.poll() is None else None
    server.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    with mortal_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def api(tmp_path: Path, redis: MortalRedis, fake: FakeEngine, model_dir: Path) -> Iterator[httpx.Client]:
    with (
        start_gateway(tmp_path / "home", redis.url, fake.url, model=model_dir) as gateway,
        client_of(gateway) as client,
    ):
        yield client


@contextmanager
def client_of(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=30) as client:
        yield client


def vote(client: httpx.Client, turn_id: str, **headers: str) -> httpx.Response:
    body = {"kind": "rating", "turn_id": turn_id, "value": "up"}
    return client.post("/v1/feedback", json=body, headers=headers)


def is_ready(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200


def test_chat_goes_on_and_votes_wait(api: httpx.Client, redis: MortalRedis) -> None:
    before = api.post(CHAT, json=ask()).json()["id"]
    accepted = vote(api, before, **{"Idempotency-Key": "k1"})
    assert accepted.status_code == 201
    redis.kill()

    started = time.monotonic()
    during = [streamed(api, ask(f"during {i}"))[0]["id"] for i in range(8)]
    whole = api.post(CHAT, json=ask("whole")).json()["id"]
    assert time.monotonic() - started < 4
    refused = vote(api, before, **{"Idempotency-Key": "k2"})
    assert error_of(refused, 503)["code"] == "ledger_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    for path in (
        "/v1/turns",
        f"/v1/turns/{before}",
        f"/v1/feedback?turn_id={before}",
        "/v1/progress",
        "/operator/jobs",
    ):
        assert error_of(api.get(path), 503)["code"] == "ledger_unavailable"
    second = ask(metadata={"compare_with": before}, seed=3)
    assert error_of(api.post(CHAT, json=second), 503)["code"] == "ledger_unavailable"
    wait_until(lambda: not is_ready(api), within_s=5, what="/readyz tells")
    assert "ledger" in api.get("/readyz").json()["missing"][0]
    assert api.get("/healthz").status_code == 200
    assert api.get("/v1/models").status_code == 200

    redis.start()
    wait_until(lambda: is_ready(api), within_s=10, what="the gateway is ready again")
    assert [e["id"] for e in api.get(f"/v1/feedback?turn_id={before}").json()["data"]] == [accepted.json()["id"]]
    wait_until(lambda: api.get(f"/v1/turns/{whole}").status_code == 200, within_s=5, what="queued turns are written")
    assert all(api.get(f"/v1/turns/{turn_id}").status_code == 200 for turn_id in during)
    again = vote(api, before, **{"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()["id"]) == (200, accepted.json()["id"])
    assert vote(api, before, **{"Idempotency-Key": "k2"}).status_code == 201


def test_a_redis_that_hangs_holds_up_no_chat(api: httpx.Client, redis: MortalRedis) -> None:
    redis.freeze()
    for _ in range(3):
        started = time.monotonic()
        assert api.post(CHAT, json=ask()).status_code == 200
        assert time.monotonic() - started < 1
    redis.thaw()
    wait_until(lambda: is_ready(api), within_s=15, what="the gateway is ready again")


def test_turns_beyond_the_queue_are_dropped_and_counted(
    tmp_path: Path, redis: MortalRedis, fake: FakeEngine, model_dir: Path
) -> None:
    with (
        start_gateway(
            tmp_path / "few", redis.url, fake.url, model=model_dir, BURNISH_GATEWAY_TURN_QUEUE="3"
        ) as gateway,
        client_of(gateway) as client,
    ):
        redis.kill()
        turns = [client.post(CHAT, json=ask()).json()["id"] for _ in range(5)]
        assert "burnish_turns_dropped_total 2.0" in client.get("/metrics").text
        assert "burnish_turns_queued 3.0" in client.get("/metrics").text
        redis.start()
        wait_until(lambda: is_ready(client), within_s=10, what="the gateway is ready again")
        wait_until(
            lambda: "burnish_turns_queued 0.0" in client.get("/metrics").text, within_s=5, what="the queue is empty"
        )
        assert [client.get(f"/v1/turns/{turn}").status_code for turn in turns] == [200, 200, 200, 404, 404]


def test_a_gateway_that_starts_before_redis_waits_for_it(
    tmp_path: Path, redis: MortalRedis, fake: FakeEngine, model_dir: Path
) -> None:
    redis.kill()
    home = tmp_path / "early"
    with (
        start_gateway(home, redis.url, fake.url, model=model_dir, ready="/healthz") as gateway,
        httpx.Client(base_url=gateway.url, timeout=10) as client,
    ):
        assert client.get("/readyz").status_code == 503
        anyone = {"Authorization": "Bearer bk-anything"}
        assert error_of(client.post(CHAT, json=ask(), headers=anyone), 503)["code"] == "ledger_unavailable"
        redis.start()
        wait_until(lambda: is_ready(client), within_s=10, what="the gateway is ready")
        assert client.post(CHAT, json=ask(), headers=gateway.headers()).status_code == 200


def test_queued_turns_are_written_when_the_gateway_is_asked_to_stop(
    tmp_path: Path, redis: MortalRedis, fake: FakeEngine, model_dir: Path
) -> None:
    with (
        start_gateway(tmp_path / "home", redis.url, fake.url, model=model_dir) as gateway,
        client_of(gateway) as client,
    ):
        redis.freeze()
        turns = [client.post(CHAT, json=ask()).json()["id"] for _ in range(3)]
        redis.thaw()
    rows = connect(redis.url)
    assert all(rows.exists(f"burnish:burnish:turn:{turn}") for turn in turns)
