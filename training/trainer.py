"""Runs one attempt at one job, in a process of its own: `python -m training.trainer JOB_ID TOKEN ATTEMPT PARENT_PID`.

The composition root of a job: builds its clients, takes its core, runs `job.run`, and ends with an exit code that
`runner` reads. Imports nothing heavy before it listens to signals.
"""

import ctypes
import logging
import math
import os
import signal
import sys
import threading

from feedback.connection import connect
from feedback.errors import FeedbackError, LeaseLost, LedgerUnavailable
from feedback.ids import JobId
from feedback.jobs import Claim, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from training.attempt import Attempt, check, patiently
from training.errors import Stopped, TrainingError
from training.exits import EXIT_LEASE_LOST, EXIT_REFUSED, EXIT_STOPPED
from training.files import write_json
from training.gateway import Gateway, Patience
from training.helpers import helped
from training.settings import load_settings

log = logging.getLogger("training.trainer")


def main(arguments: list[str]) -> int:
    job_id, token, number, parent = arguments
    stop = threading.Event()
    die_with(int(parent))
    settings = load_settings()
    stop_on_signals(stop, math.ceil(settings.training.stop_patience_s))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    folder = settings.job_folder(job_id)
    try:
        # torch and transformers take seconds to import: who asks to stop meanwhile must be heard.
        from training.job import run
        from training.model import SharedBase
        from training.place import place

        check(stop)
        client = connect(settings.redis_url)
        jobs = JobStore(client, settings.line.name)
        job = patiently(lambda: jobs.get(JobId(job_id)))
        attempt = Attempt(
            settings=settings,
            claim=Claim(job.id, int(token), int(number)),
            job=job,
            jobs=jobs,
            ledger=Ledger(client, settings.line.name),
            registry=Registry(client, settings.line.name),
            gateway=Gateway(
                settings.gateway_url, settings.worker_key(), settings.line.name, Patience(check=lambda: check(stop))
            ),
            stop=stop,
            report=dict(job.report),
        )
        with helped(settings, job_id) as meet:
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
        write_json(folder / "error.json", {"message": str(error), "retry": retry})
        return EXIT_REFUSED


def stop_on_signals(stop: threading.Event, patience_s: int) -> None:
    """SIGTERM and SIGINT ask to stop; whoever has not done so after `patience_s` is ended by an alarm."""

    def remember(*_: object) -> None:
        stop.set()
        signal.alarm(patience_s)

    signal.signal(signal.SIGTERM, remember)
    signal.signal(signal.SIGINT, remember)


def die_with(parent: int) -> None:
    """Have the kernel stop this process when its parent dies; the parent may be gone already."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(EXIT_STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
