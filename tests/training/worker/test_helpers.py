"""The trainer's other processes: they die with it, and it with them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedback.ids import JobId
from tests.services import wait_until
from tests.training.workplace import trainer_pid
from training.worker.exits import EXIT_REFUSED, EXIT_STOPPED

JOB = JobId("job-of-two")
TRAINER = """
import time
from training.worker.helpers import helped
from training.settings import Settings
with helped(Settings.read(), "job-of-two"):
    time.sleep(60)
"""

HOLD = """
import os, pathlib, time
pathlib.Path(os.environ["BURNISH_HOME"], "importing").touch()
time.sleep(60)
"""


@contextmanager
def trainer_and_helper(home: Path, torch: str) -> Iterator[subprocess.Popen[bytes]]:
    """A trainer that waits, with one helper whose `torch` does what is given here."""
    (home / "jobs" / JOB).mkdir(parents=True)
    (home / "torch.py").write_text(torch)
    place = {"BURNISH_HOME": str(home), "BURNISH_TRAINING_PROCESSES": "2", "BURNISH_TRAINING_DEVICE": "cpu"}
    path = os.pathsep.join((str(home), os.getcwd()))
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER], env={**os.environ, **place, "PYTHONPATH": path})
    try:
        yield trainer
    finally:
        trainer.kill()
        trainer.wait()


def helper_pid() -> int | None:
    return trainer_pid(JOB, b"training.worker.helpers")


def test_a_killed_trainer_leaves_no_helper_behind(tmp_path: Path) -> None:
    with trainer_and_helper(tmp_path, HOLD) as trainer:
        wait_until((tmp_path / "importing").exists, within_s=30, what="the helper imports torch")
        assert helper_pid() is not None
        trainer.kill()
        wait_until(lambda: helper_pid() is None, within_s=10, what="the helper dies with its trainer")


def test_a_helper_that_runs_out_of_memory_ends_its_trainer_with_what_to_change(tmp_path: Path) -> None:
    with trainer_and_helper(tmp_path, "raise MemoryError('no room')") as trainer:
        assert trainer.wait(60) == EXIT_REFUSED
    told = json.loads((tmp_path / "jobs" / JOB / "error.json").read_text())
    assert told["retry"] is False
    assert "no room" in told["message"]
    assert "pass_tokens" in told["message"]


def test_a_helper_that_cannot_load_the_base_ends_its_trainer_and_says_why(tmp_path: Path) -> None:
    refused = "from training.errors import ModelRefused\nraise ModelRefused('the disk cannot be read')"
    with trainer_and_helper(tmp_path, refused) as trainer:
        assert trainer.wait(60) == EXIT_REFUSED
    told = json.loads((tmp_path / "jobs" / JOB / "error.json").read_text())
    assert told == {"message": "the disk cannot be read", "retry": False}


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    source = "import signal; from training.worker.helpers import die_with; die_with(1, signal.SIGTERM)"
    assert subprocess.run([sys.executable, "-c", source]).returncode == EXIT_STOPPED


@pytest.mark.parametrize(
    ("torch", "code"),
    [("raise SystemExit(65)", 65), ("import os\nos.kill(os.getpid(), 9)", -signal.SIGKILL)],
)
def test_a_helper_that_fails_ends_its_trainer_in_the_same_way(tmp_path: Path, torch: str, code: int) -> None:
    with trainer_and_helper(tmp_path, torch) as trainer:
        assert trainer.wait(60) == code
