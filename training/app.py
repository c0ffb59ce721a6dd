"""The Celery app: composition root of worker and beat. Messages only say "look at job J"; the job row is the truth.

Worker of the queue `train`: one job at a time, best with `--pool solo`. Queue `control`: short tasks sent by beat.
Nothing here imports torch.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

from celery import Celery
from kombu import Queue

from feedback.connection import Client, connect
from feedback.errors import LedgerUnavailable
from feedback.ids import JobId
from feedback.jobs import JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from training import control
from training.settings import Settings
from training.worker.runner import Runner

log = logging.getLogger("training.app")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def make_app(settings: Settings) -> Celery:
    """The app with its tasks and beat's schedule. Connects to nothing yet."""
    app = Celery("burnish", broker=settings.broker_url)
    app.conf.update(celery_settings(settings))

    @cache
    def client() -> Client:
        return connect(settings.redis_url)

    def desk() -> control.Desk:
        line = settings.line.name
        return control.Desk(settings, Ledger(client(), line), Registry(client(), line), JobStore(client(), line))

    def send(job_id: JobId) -> None:
        app.send_task("burnish.run_job", args=[job_id], queue="train")

    @app.task(name="burnish.run_job")  # type: ignore[untyped-decorator]
    def run_job(job_id: str) -> None:
        ours = desk()
        with ledger_may_be_away(), stoppable() as stop:
            outcome = Runner(settings, ours.jobs, ours.registry, stop).run(JobId(job_id))
            log.info("job %s: %s", job_id, outcome)

    @app.task(name="burnish.tick")  # type: ignore[untyped-decorator]
    def tick() -> None:
        with ledger_may_be_away():
            control.tick(desk(), send)

    @app.task(name="burnish.reconcile")  # type: ignore[untyped-decorator]
    def reconcile() -> None:
        with ledger_may_be_away(), app.connection_for_write() as connection:
            channel = connection.default_channel
            n_waiting = channel.queue_declare(queue="train", passive=False).message_count
            control.reconcile(desk(), n_waiting, send)

    return app


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Two queues, tasks that come back when their worker dies, a broker that may be away, and beat's schedule."""
    every_s = settings.training.tick_s
    return {
        "task_queues": [Queue("train"), Queue("control")],
        "task_default_queue": "control",
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "result_backend": None,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_soft_shutdown_timeout": settings.training.stop_patience_s,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": f"celery:{settings.line.name}:",
        },
        "beat_schedule": {
            "tick": {"task": "burnish.tick", "schedule": every_s, "options": {"expires": every_s}},
            "reconcile": {"task": "burnish.reconcile", "schedule": every_s, "options": {"expires": every_s}},
        },
        "beat_max_loop_interval": every_s,
    }


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Within: a signal that would end this process sets the event instead, and is sent again afterwards.

    A training job takes a moment to checkpoint and to be given back; Celery's own shutdown comes after it.
    """
    stop = threading.Event()
    caught: list[int] = []

    def remember(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)
        stop.set()

    former = {signum: signal.signal(signum, remember) for signum in _STOP_SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
        if caught:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def ledger_may_be_away() -> Iterator[None]:
    """A control task that finds Redis away leaves it to the next one."""
    try:
        yield
    except LedgerUnavailable as error:
        log.warning("%s", error)


app = make_app(Settings.read_or_exit())
