"""Runs one attempt at one job in a process of its own, started by the runner.

`python -m training.worker.trainer JOB_ID TOKEN ATTEMPT PARENT_PID`. The composition root of a job: builds its clients,
takes its core, runs `job.run`, and ends with an exit code that `runner` reads. Imports nothing heavy before it listens
to signals.
"""

import fcntl
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.connection import connect
from feedback.errors import FeedbackError, LeaseLost, LedgerUnavailable
from feedback.ids import JobId
from feedback.jobs import Claim, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from training.errors import Stopped, TrainingError
from training.files import write_json
from training.sampling.gateway import Gateway, Patience
from training.settings import Settings
from training.worker.attempt import Attempt, check, patiently
from training.worker.exits import EXIT_LEASE_LOST, EXIT_REFUSED, EXIT_STOPPED
from training.worker.helpers import die_with, helped
from training.worker.memory import memory_told

log = logging.getLogger("training.worker.trainer")

_LOOK_S = 0.2


def main(arguments: list[str]) -> int:
    job_id, token, number, parent = arguments
    stop = threading.Event()
    die_with(int(parent), signal.SIGTERM)
    settings = Settings.read_or_exit()
    stop_on_signals(stop, math.ceil(settings.training.stop_patience_s))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        with memory_told():
            work(settings, Claim(JobId(job_id), int(token), int(number)), stop)
        return 0
    except Stopped as error:
        log.info("%s", error)
        return EXIT_STOPPED
    except LeaseLost as error:
        log.error("%s", error)
        return EXIT_LEASE_LOST
    except (TrainingError, FeedbackError) as error:
        log.error("%s", error)
        retry = error.retry if isinstance(error, TrainingError) else isinstance(error, LedgerUnavailable)
        write_json(settings.job_folder(job_id) / "error.json", {"message": str(error), "retry": retry})
        return EXIT_REFUSED
    except Exception as error:
        log.exception("the trainer failed")
        message = f"the trainer failed unexpectedly: {type(error).__name__}: {error}; trainer.log says where"
        write_json(settings.job_folder(job_id) / "error.json", {"message": message, "retry": True})
        return EXIT_REFUSED


def work(settings: Settings, claim: Claim, stop: threading.Event) -> None:
    """The attempt itself, with its clients and its device. Raises what `job.run` does."""
    # torch and transformers take seconds to import: who asks to stop meanwhile must be heard.
    from training.base.model import SharedBase
    from training.job import run
    from training.worker.place import place

    check(stop)
    client, line = connect(settings.redis_url), settings.line.name
    jobs = JobStore(client, line)
    job = patiently(lambda: jobs.get(claim.job_id))
    attempt = Attempt(
        settings=settings,
        claim=claim,
        job=job,
        jobs=jobs,
        ledger=Ledger(client, line),
        registry=Registry(client, line),
        gateway=Gateway(settings.gateway_url, settings.worker_key(), line, Patience(check=lambda: check(stop))),
        stop=stop,
        report=dict(job.report),
    )
    with only_one(attempt.folder, stop), helped(settings, job.id) as meet:
        section = settings.training
        device = place(section)

        def base() -> SharedBase:
            return SharedBase(
                settings.model_path,
                device,
                crew=meet(device),
                sharded=section.shards,
                recompute=section.recompute_activations,
            )

        run(attempt, base)


@contextmanager
def only_one(folder: Path, stop: threading.Event) -> Iterator[None]:
    """Within: no other trainer of this machine works in the job's folder.

    One whose runner was killed goes on until its patience is over, when the job may long be another's. Stopped when
    asked to stop while waiting for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".trainer").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check(stop)
                time.sleep(_LOOK_S)
        yield


def stop_on_signals(stop: threading.Event, patience_s: int) -> None:
    """SIGTERM and SIGINT ask to stop; whoever has not done so after `patience_s` is ended by an alarm."""

    def remember(*_: object) -> None:
        stop.set()
        signal.alarm(patience_s)

    signal.signal(signal.SIGTERM, remember)
    signal.signal(signal.SIGINT, remember)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
