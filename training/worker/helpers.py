"""The other processes of a trainer, started by it: `python -m training.worker.helpers RANK JOB_ID PARENT_PID`.

They run the loops that the trainer calls, on settings and device of their own, and talk to nobody else. They die with
the trainer, and it with any of them: a job goes on from its checkpoint.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from feedback.errors import FeedbackError
from training.errors import LostStep, OutOfMemory, TrainingError
from training.files import write_json
from training.settings import Settings
from training.worker.exits import EXIT_REFUSED, EXIT_STOPPED
from training.worker.memory import memory_told

if TYPE_CHECKING:
    import torch

    from training.base.crew import Crew

log = logging.getLogger("training.worker.helpers")

_MEETING = "meeting"
"""File in the job's folder by which the processes find each other."""


@contextmanager
def helped(settings: Settings, job_id: str) -> "Iterator[Callable[[torch.device], Crew]]":
    """Within: the helpers run, if the settings want any. What it gives meets them, on the trainer's own device.

    Call before the trainer takes its cores, which helpers would inherit. A helper that fails ends the whole trainer.
    """
    size = settings.training.processes
    if size == 1:
        yield lambda device: _alone()
        return
    meeting = settings.job_folder(job_id) / _MEETING
    meeting.unlink(missing_ok=True)
    helpers = [_start(rank, job_id) for rank in range(1, size)]
    over = threading.Event()
    for each in helpers:
        threading.Thread(target=_end_with, args=(each, over), daemon=True, name=f"helper {each.pid}").start()
    try:
        yield lambda device: _meet(0, settings, job_id, device)
    finally:
        over.set()
        for each in helpers:
            each.kill()
            each.wait()
        meeting.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    rank, job_id, parent = int(arguments[0]), arguments[1], int(arguments[2])
    die_with(parent, signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    settings = Settings.read_or_exit()
    began = False
    try:
        with memory_told():
            crew, own = _take_seat(settings, rank, job_id)
            began = True
            crew.follow(own)
    except (TrainingError, FeedbackError) as error:
        if began and not isinstance(error, LostStep | OutOfMemory):
            log.info("%s", error)  # the trainer fails in the same way, and says so
            return 0
        # Of these the trainer may not have heard.
        log.error("%s", error)
        retry = isinstance(error, TrainingError) and error.retry
        write_json(settings.job_folder(job_id) / "error.json", {"message": str(error), "retry": retry})
        return EXIT_REFUSED


def die_with(parent: int, by: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies; the parent may be gone already."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, by)
    if os.getppid() != parent:
        raise SystemExit(EXIT_STOPPED)


def _take_seat(settings: Settings, rank: int, job_id: str) -> "tuple[Crew, dict[str, object]]":
    """Meet the trainer with a model of one's own; and what this process has of its own in every loop."""
    from training.base.model import SharedBase
    from training.loops.experience import NoRollouts, no_scorer
    from training.loops.steps import SILENT
    from training.worker.place import place

    device = place(settings.training, rank)
    crew = _meet(rank, settings, job_id, device)
    model = SharedBase(
        settings.model_path,
        device,
        crew=crew,
        sharded=settings.training.shards,
        recompute=settings.training.recompute_activations,
    )
    return crew, {"model": model, "watch": SILENT, "rollouts": NoRollouts(), "reward": no_scorer}


def _alone() -> "Crew":
    from training.base.crew import Crew

    return Crew()


def _meet(rank: int, settings: Settings, job_id: str, device: "torch.device") -> "Crew":
    from training.base.crew import Seat, join

    return join(Seat(rank, settings.training.processes, settings.job_folder(job_id) / _MEETING), device)


def _start(rank: int, job_id: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training.worker.helpers", str(rank), job_id, str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def _end_with(helper: subprocess.Popen[bytes], over: threading.Event) -> None:
    """End this process when a helper fails: no other word of it would come, and the rest may wait inside a pass."""
    code = helper.wait()
    if over.is_set() or code == 0:
        return
    log.error("a helper ended with code %d, and the trainer with it", code)
    logging.shutdown()
    if code < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
