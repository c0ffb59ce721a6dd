"""The trainer's own process: one at a time in a job's folder."""

import threading
from pathlib import Path

import pytest

from tests.services import wait_until
from training.errors import Stopped
from training.worker.trainer import only_one


def test_a_trainer_waits_for_the_one_that_is_still_in_its_jobs_folder(tmp_path: Path) -> None:
    folder, entered = tmp_path / "job", threading.Event()

    def second() -> None:
        with only_one(folder, threading.Event()):
            entered.set()

    waiting = threading.Thread(target=second)
    with only_one(folder, threading.Event()):
        waiting.start()
        assert not entered.wait(0.5)
    wait_until(entered.is_set, within_s=10, what="the second enters")
    waiting.join()


def test_a_trainer_that_waits_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with only_one(tmp_path, threading.Event()), pytest.raises(Stopped), only_one(tmp_path, stop):
        pass
