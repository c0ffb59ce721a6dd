"""The trainer's other processes: they die with it, and it with them."""

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

JOB = JobId("job-of-two")
TRAINER = """
import time
from training.helpers import helped
from training.settings import load_settings
with helped(load_settings(), "job-of-two"):
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
    return trainer_pid(JOB, b"training.helpers")


def test_a_killed_trainer_leaves_no_helper_behind(tmp_path: Path) -> None:
    with trainer_and_helper(tmp_path, HOLD) as trainer:
        wait_until((tmp_path / "importing").exists, within_s=30, what="the helper imports torch")
        assert helper_pid() is not None
        trainer.kill()
        wait_until(lambda: helper_pid() is None, within_s=10, what="the helper dies with its trainer")


@pytest.mark.parametrize(
    ("torch", "code"),
    [("raise SystemExit(65)", 65), ("import os\nos.kill(os.getpid(), 9)", -signal.SIGKILL)],
)
def test_a_helper_that_fails_ends_its_trainer_in_the_same_way(tmp_path: Path, torch: str, code: int) -> None:
    with trainer_and_helper(tmp_path, torch) as trainer:
        assert trainer.wait(60) == code
