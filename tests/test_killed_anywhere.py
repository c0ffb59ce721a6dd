"""The whole system, each process killed in turn while votes come in and a job runs: nothing lost, nothing twice."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from feedback.connection import connect
from feedback.ids import JobId, LineName
from feedback.jobs import JobState, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from tests.services import ROOT, free_port, wait_until

LINE = LineName("burnish")
QUESTIONS = [f"Name one thing that is good about the number {n}." for n in range(3, 27)]
SHORT_RECIPE = """
algorithm = "dpo"
epochs = 1
batch_pairs = 4
optimizer = { learning_rate = 1e-4 }
"""
MARKS = {
    "redis": "redis-server",
    "gateway": "serve.app",
    "beat": "-Q control",
    "ui": "ui.app",
    "engine": "vllm.entrypoints",
    "worker": "-Q train",
}
"""What tells each process, in the order they are killed. The worker is last: the trainer dies with it."""


@dataclass
class Running:
    """A whole Burnish under its launcher."""

    process: subprocess.Popen[bytes]
    home: Path
    gateway_url: str
    ui_url: str
    redis_url: str

    def pid_of(self, name: str) -> int:
        """The process that does the work of `name`: the deepest one under its guard that carries its mark."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if MARKS[name] in command and "guard" not in command:
                return child.pid
        raise AssertionError(f"{name} does not run")

    def trainer_of(self, job_id: JobId) -> int | None:
        """The trainer's process, if the job has one just now."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = child.cmdline()
                alive = child.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                continue
            if "training.worker.trainer" in command and job_id in command and alive:
                return child.pid
        return None

    def is_ready(self) -> bool:
        return _ok(f"{self.gateway_url}/readyz") and _ok(self.ui_url)

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {(self.home / f'{key}.key').read_text(encoding='utf-8').strip()}"}


@dataclass
class Voter:
    """Keeps voting on pairs of turns; repeats a vote under its idempotency key until it is answered."""

    running: Running
    pairs: list[tuple[str, str]]
    accepted: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def vote_on(self) -> None:
        with httpx.Client(base_url=self.running.gateway_url, headers=self.running.headers("page"), timeout=10) as http:
            count = 0
            while not self.stop.is_set():
                self._vote(http, self.pairs[count % len(self.pairs)], ("first", "second")[count // len(self.pairs) % 2])
                count += 1
                time.sleep(0.05)

    def _vote(self, http: httpx.Client, pair: tuple[str, str], verdict: str) -> None:
        key = uuid.uuid4().hex
        body = {"kind": "comparison", "turn_ids": pair, "verdict": verdict, "source": "simulated"}
        while True:
            try:
                answer = http.post("/v1/feedback", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code in (200, 201):
                self.accepted[key] = answer.json()["id"]
                return
            if answer.status_code != 503:
                self.refused.append(f"{answer.status_code} {answer.text}")
                return
            time.sleep(0.1)


def _ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=3).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def burnish(model_dir: Path, tmp_path: Path) -> Iterator[Running]:
    ports = {name: free_port() for name in ("gateway", "ui", "engine", "redis")}
    environment = {
        **os.environ,
        **{f"BURNISH_{name.upper()}_PORT": str(port) for name, port in ports.items()},
        "BURNISH_HOME": str(tmp_path / "home"),
        "BURNISH_MODEL_PATH": str(model_dir),
        "BURNISH_SCHEDULE_MIN_NEW_PAIRS": str(len(QUESTIONS)),
        "BURNISH_SCHEDULE_SETTLE_S": "0",
        "BURNISH_TRAINING_LEASE_S": "5",
        "BURNISH_TRAINING_CHECKPOINT_S": "0",
        "BURNISH_TRAINING_RECIPE": "short",
        "BURNISH_TRAINING_RECIPES": str(tmp_path / "recipes"),
        "BURNISH_GATE_MAX_TOKENS": "24",
    }
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "short.toml").write_text(SHORT_RECIPE, encoding="utf-8")
    log = (tmp_path / "launcher.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "up"], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    running = Running(
        process,
        tmp_path / "home",
        f"http://127.0.0.1:{ports['gateway']}",
        f"http://127.0.0.1:{ports['ui']}",
        f"redis://127.0.0.1:{ports['redis']}/0",
    )
    try:
        wait_until(running.is_ready, within_s=600, what="the whole system is ready", every_s=0.5)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(150)
        log.close()


def _two_answers(running: Running, question: str) -> tuple[str, str]:
    body: dict[str, Any] = {
        "model": "burnish",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 16,
        "temperature": 1.0,
    }
    with httpx.Client(base_url=running.gateway_url, headers=running.headers("page"), timeout=120) as http:
        first = http.post("/v1/chat/completions", json=body).raise_for_status().json()["id"]
        second = http.post("/v1/chat/completions", json=body | {"metadata": {"compare_with": first}})
        return first, second.raise_for_status().json()["id"]


@pytest.mark.engine
@pytest.mark.timeout(1500)
def test_each_process_killed_in_turn_loses_no_vote_and_finishes_the_running_job_once(burnish: Running) -> None:
    jobs = JobStore(connect(burnish.redis_url), LINE)
    voter = Voter(burnish, [_two_answers(burnish, question) for question in QUESTIONS])
    voting = threading.Thread(target=voter.vote_on)
    voting.start()
    try:
        wait_until(lambda: _state(jobs) is JobState.running, within_s=120, what="a job started by itself")
        job_id = jobs.recent()[-1].id
        for name in MARKS:
            trainer = _running_trainer(burnish, job_id, name)
            before = len(voter.accepted)
            os.kill(burnish.pid_of(name), signal.SIGKILL)
            time.sleep(1)
            wait_until(burnish.is_ready, within_s=600, what=f"ready again after {name} was killed", every_s=0.5)
            wait_until(lambda seen=before: len(voter.accepted) > seen, within_s=180, what=f"votes go on after {name}")
        wait_until(lambda: burnish.trainer_of(job_id) != trainer, within_s=120, what="the trainer ends with its worker")
    finally:
        voter.stop.set()
        voting.join(60)
    wait_until(lambda: jobs.recent()[-1].state is JobState.done, within_s=900, what="the job is done", every_s=1)
    assert voter.refused == []
    _assert_every_vote_is_there_once(burnish, voter)
    _assert_the_first_job_was_finished_once(burnish, jobs)


def _running_trainer(burnish: Running, job_id: JobId, name: str) -> int:
    """The trainer that the death of `name` will meet."""
    what = f"the job has a trainer when {name} is to be killed"
    wait_until(lambda: burnish.trainer_of(job_id) is not None, within_s=120, what=what)
    trainer = burnish.trainer_of(job_id)
    assert trainer is not None, what
    return trainer


def _state(jobs: JobStore) -> JobState | None:
    known = jobs.recent()
    return known[-1].state if known else None


def _assert_every_vote_is_there_once(burnish: Running, voter: Voter) -> None:
    logged = Counter(event.id for event in Ledger(connect(burnish.redis_url), LINE).logged_events())
    assert len(voter.accepted) == len(set(voter.accepted.values())) > len(QUESTIONS)
    assert set(voter.accepted.values()) == set(logged)
    assert set(logged.values()) == {1}


def _assert_the_first_job_was_finished_once(burnish: Running, jobs: JobStore) -> None:
    job = jobs.recent()[-1]
    registry = Registry(connect(burnish.redis_url), LINE)
    made = [policy for policy in registry.view().policies.values() if policy.job_id == job.id]
    steps = [entry.action for entry in registry.audit() if entry.version == job.version]
    assert [policy.version for policy in made] == [job.version]
    assert job.attempt > 1, "the worker's death met no trainer"
    assert steps.count("draft") == 1
    assert steps.count("candidate") + steps.count("rejected") == 1
    assert steps.count("promote") <= 1
