"""A home with a tiny model, votes in a real ledger, and real Celery processes to work on them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from feedback.connection import connect
from feedback.events import Aspect, Comparison, Rating, Source, Verdict
from feedback.ids import BASE_VERSION, JobId, LineName, TenantId, TurnId, new_turn_id
from feedback.jobs import Job, JobRequest, JobState, JobStore
from feedback.ledger import Ledger, Speaker
from feedback.registry import Registry
from feedback.turns import Turn
from tests.services import running, wait_until
from training.examples.tokens import ChatTokens

LINE = LineName("burnish")
TENANT = TenantId("home")


@dataclass(frozen=True)
class Workplace:
    """Addresses, folders and the connected ledger of one test."""

    home: Path
    redis_url: str
    gateway_url: str
    tokens: ChatTokens
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        client = connect(self.redis_url)
        for name, part in (("ledger", Ledger), ("jobs", JobStore), ("registry", Registry)):
            object.__setattr__(self, name, part(client, LINE))

    ledger: Ledger = field(init=False)
    jobs: JobStore = field(init=False)
    registry: Registry = field(init=False)

    @property
    def base_digest(self) -> str:
        return (self.home / "model" / "digest.txt").read_text().strip()

    def environment(self) -> dict[str, str]:
        return {
            "BURNISH_HOME": str(self.home),
            "BURNISH_REDIS_URL": self.redis_url,
            "BURNISH_GATEWAY_URL": self.gateway_url,
            "BURNISH_TRAINING_LEASE_S": "2",
            "BURNISH_TRAINING_TICK_S": "0.5",
            "BURNISH_TRAINING_CHECKPOINT_S": "0",
            "BURNISH_TRAINING_DEVICE": "cpu",
            **self.settings,
        }

    def vote(self, n: int, *, first: int = 0) -> None:
        """n comparisons on prompts of their own: the short answer is better."""
        for i in range(first, first + n):
            turns = [self._turn(f"Question number {i}?", text) for text in ("Yes.", "No, I do not think so at all.")]
            self.ledger.append_turns(turns)
            said = Comparison(
                kind="comparison",
                turn_ids=(turns[0].id, turns[1].id),
                verdict=Verdict.first,
                source=Source.simulated,
            )
            self.ledger.append_event(said, Speaker(TENANT))

    def rate(self, n: int, *, first: int = 0) -> None:
        """n thumbs, up and down in turn, on answers to prompts of their own."""
        for i in range(first, first + n):
            turn = self._turn(f"Question number {i}?", "Yes.")
            self.ledger.append_turns([turn])
            value: Literal["up", "down"] = "down" if i % 2 else "up"
            said = Rating(kind="rating", turn_id=turn.id, value=value, source=Source.simulated)
            self.ledger.append_event(said, Speaker(TENANT))

    def score(self, n: int) -> None:
        """n prompts with a short and a long answer: the short one is the more helpful, the long one more harmless."""
        for i in range(n):
            turns = [self._turn(f"Question number {i}?", text) for text in ("Yes.", "No, I do not think so at all.")]
            self.ledger.append_turns(turns)
            for name, scores in (("helpful", (5, 3)), ("harmless", (1, 4))):
                for turn, points in zip(turns, scores, strict=True):
                    said = Aspect(kind="aspect", turn_id=turn.id, name=name, score=points, source=Source.simulated)
                    self.ledger.append_event(said, Speaker(TENANT))

    def start_job(self, **recipe: Any) -> JobId:
        """A job on all votes, with a small recipe of its own."""
        self.registry.ensure_base(self.base_digest)
        events = self.ledger.standing_events()
        adapter = {"rank": 8, "alpha": 16}
        body = {"algorithm": "dpo", "epochs": 2, "pass_tokens": 200, "adapter": adapter, **recipe}
        if body["algorithm"] == "online_preference":  # whose loss says all that
            own = {name: body.pop(name) for name in ("epochs", "pass_tokens", "adapter")}
            body["loss"] = {"algorithm": "dpo", **own, **body.get("loss", {})}
        request = JobRequest(
            recipe="test",
            recipe_body=body,
            base_digest=self.base_digest,
            code_version="test",
            event_ids=[event.id for event in events],
            pairs_ordinal=max(event.ordinal for event in events),
            actor="test",
            reason="test",
        )
        return self.jobs.create(request).job.id

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._celery("worker", "-Q", "train", "--pool", "solo", "-n", "train@test") as process:
            yield process

    @contextmanager
    def beat(self) -> Iterator[subprocess.Popen[bytes]]:
        options = ["-B", "--schedule", str(self.home / "beat-schedule")]
        with self._celery("worker", "-Q", "control", "--pool", "solo", "-n", "control@test", *options) as process:
            yield process

    def wait_for(self, job_id: JobId, state: JobState, *, within_s: float = 120) -> Job:
        wait_until(
            lambda: self.jobs.get(job_id).state is state, within_s=within_s, what=f"the job is {state}", every_s=0.1
        )
        return self.jobs.get(job_id)

    def wait_for_step(self, job_id: JobId, step: int) -> None:
        wait_until(lambda: len(self.steps(job_id)) >= step, within_s=180, what=f"step {step} is reported")

    def steps(self, job_id: JobId) -> list[dict[str, Any]]:
        """The curve of what the job is for, without that of a reward model that it made on the way."""
        return [point for point in self.jobs.curve(job_id) if "part" not in point]

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted((self.home / "logs").glob("*.log")))

    def _turn(self, question: str, answer: str) -> Turn:
        messages = ({"role": "user", "content": question},)
        return Turn(
            id=TurnId(new_turn_id()),
            at=time.time(),
            tenant=TENANT,
            version=BASE_VERSION,
            messages=messages,
            answer=answer,
            finish_reason="stop",
            prompt_token_ids=self.tokens.prompt(messages),
            token_ids=self.tokens.answer(answer),
        )

    def _celery(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "celery", "-A", "training.app", *arguments, "--loglevel", "info"]
        log = self.home / "logs" / f"{arguments[2]}-{time.monotonic_ns()}.log"
        log.parent.mkdir(exist_ok=True)
        return running(
            command,
            log=log,
            ready=lambda: " ready." in log.read_text(errors="replace"),
            within_s=60,
            env={**os.environ, **self.environment()},
        )


def make_workplace(
    home: Path, model: Path, redis_url: str, gateway_url: str, tokens: ChatTokens, **settings: str
) -> Workplace:
    home.mkdir(exist_ok=True)
    shutil.copytree(model, home / "model")
    (home / "worker.key").write_text("bk-test\n")
    return Workplace(home, redis_url, gateway_url, tokens, settings)


def trainer_pid(job_id: JobId, module: bytes = b"training.worker.trainer") -> int | None:
    """The trainer's process for a job, if one runs; or another's of its own module."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if module in command and job_id.encode() in command:
            return int(entry.name)
    return None
