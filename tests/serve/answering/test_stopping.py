"""A gateway asked to stop while it answers: what runs ends whole, what takes too long is told, nobody enters."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.access_keys import KeyStore, Scope
from feedback.connection import connect
from feedback.ids import LineName, TenantId, TurnId
from feedback.ledger import Ledger
from feedback.quota import KeyLimits
from feedback.turns import Turn
from tests.fake_engine import WORDS, FakeEngine
from tests.serve.access.test_doors import knows
from tests.serve.conftest import ask
from tests.serve.raw_http import address
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, events_of, text_of
from tests.services import ROOT, Gateway, answers, end_group, free_port, offline, wait_until


class Stoppable:
    """A gateway whose end the test decides."""

    def __init__(self, home: Path, redis_url: str, engine_url: str, model: Path, stop_s: float) -> None:
        port = free_port()
        self.at = Gateway(f"http://127.0.0.1:{port}", home, redis_url)
        home.mkdir()
        settings = {
            "BURNISH_HOME": str(home),
            "BURNISH_GATEWAY_PORT": str(port),
            "BURNISH_GATEWAY_STOP_S": str(stop_s),
            "BURNISH_REDIS_URL": redis_url,
            "BURNISH_ENGINE_URL": engine_url,
            "BURNISH_MODEL_PATH": str(model),
        }
        self.log = home / "gateway.log"
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serve.app"],
                cwd=ROOT,
                env={**os.environ, **offline(), **settings},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: answers(f"{self.at.url}/readyz"), within_s=60, what="the gateway is ready")

    def ask_to_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not self.lets_in(), within_s=5, what="nobody is let in any more")

    def lets_in(self) -> bool:
        try:
            with socket.create_connection(address(self.at), timeout=2):
                return True
        except ConnectionError:
            return False

    def turn(self, turn_id: str) -> Turn | None:
        return Ledger(connect(self.at.redis_url), LineName("burnish")).turn(TurnId(turn_id))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def stoppable(tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path, stop_s: float) -> Iterator[Stoppable]:
    gateway = Stoppable(tmp_path / "home", redis_url, fake.url, model_dir, stop_s)
    yield gateway
    fake.held = False
    end_group(gateway.process)


@pytest.fixture
def patient(tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path) -> Iterator[Stoppable]:
    yield from stoppable(tmp_path, redis_url, fake, model_dir, 60)


@pytest.fixture
def impatient(tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path) -> Iterator[Stoppable]:
    yield from stoppable(tmp_path, redis_url, fake, model_dir, 0.5)


def asked(pool: ThreadPoolExecutor, gateway: Gateway, key: str | None = None, **fields: Any) -> Future[httpx.Response]:
    headers = {"Authorization": f"Bearer {key or gateway.key()}"}
    return pool.submit(httpx.post, gateway.url + CHAT, json=ask(**fields), headers=headers, timeout=60)


def test_what_runs_ends_whole_and_is_recorded_and_settled(
    patient: Stoppable, pool: ThreadPoolExecutor, fake: FakeEngine
) -> None:
    store = KeyStore(connect(patient.at.redis_url))
    _, key = store.make("limited", frozenset({Scope.chat}), TenantId("acme"), KeyLimits(None, 1000))
    with httpx.Client(base_url=patient.at.url) as client:
        wait_until(lambda: knows(client, key), within_s=2, what="the key is known")
        fake.held = True
        stream = asked(pool, patient.at, key, stream=True, max_tokens=100)
        fake.behave(delay_s=0.2)
        whole = asked(pool, patient.at, stream=False)
        wait_until(lambda: fake.running == 2, within_s=5, what="both run")
        patient.ask_to_stop()
        assert fake.running >= 1, "the stream waits for the engine"
        fake.behave(delay_s=0)
        fake.held = False
        events = events_of(stream.result().text)
        assert events[-1] == "[DONE]"
        assert text_of(events) == "".join(WORDS)
        assert whole.result().json()["choices"][0]["message"]["content"] == "".join(WORDS)
        patient.process.wait(20)
        for turn_id in (events[0]["id"], whole.result().json()["id"]):
            turn = patient.turn(turn_id)
            assert turn is not None
            assert turn.answer == "".join(WORDS)
        (quota,) = connect(patient.at.redis_url).keys("burnish:quota:*")
        assert connect(patient.at.redis_url).hget(quota, "sum") == str(3 + len(WORDS))
        assert fake.aborted == 0


def test_what_takes_too_long_is_ended_and_told(
    impatient: Stoppable, pool: ThreadPoolExecutor, fake: FakeEngine
) -> None:
    fake.behave(delay_s=3)
    stream, whole = asked(pool, impatient.at, stream=True), asked(pool, impatient.at)
    wait_until(lambda: fake.running == 2, within_s=5, what="both run")
    impatient.ask_to_stop()
    events = events_of(stream.result().text)
    assert events[-1]["error"]["code"] == "engine_unavailable"
    assert "stopping" in events[-1]["error"]["message"]
    assert "[DONE]" not in events
    assert error_of(whole.result(), 503)["code"] == "engine_unavailable"
    assert whole.result().headers["retry-after"]
    impatient.process.wait(20)
    assert fake.running == 0
    assert "Traceback" not in impatient.log.read_text()
