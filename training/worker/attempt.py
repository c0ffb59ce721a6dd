"""One claimed attempt at a job: the parts of the ledger it needs, what it reports, when it is to stop."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from feedback.errors import LedgerUnavailable
from feedback.jobs import Claim, Job, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from training.errors import Stopped
from training.sampling.gateway import Gateway
from training.settings import Settings

log = logging.getLogger("training.worker.attempt")
T = TypeVar("T")


@dataclass
class Attempt:
    """One claimed attempt: the ledger, the folder, and what it has to say so far."""

    settings: Settings
    claim: Claim
    job: Job
    jobs: JobStore
    ledger: Ledger
    registry: Registry
    gateway: Gateway
    stop: threading.Event
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.settings.job_folder(self.job.id)

    def stage(self, name: str, progress: float) -> None:
        """Say what comes next."""
        self.check_stop()
        log.info("%s", name)
        patiently(lambda: self.jobs.report(self.claim, stage=name, progress=progress, report=self.report))

    def progress(self, share: float) -> None:
        """Say how far it is; a ledger that is away for a moment is no reason to stop."""
        try:
            self.jobs.report(self.claim, progress=share)
        except LedgerUnavailable as error:
            log.warning("progress not written: %s", error)

    def check_stop(self) -> None:
        check(self.stop)


class CurveWriter:
    """Writes curve points to the job row; those that the ledger could not take are sent along with the next."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._waiting: list[dict[str, float | str]] = []
        self.last: dict[str, float | str] = {}

    def add(self, point: Mapping[str, float], *, part: str | None = None) -> None:
        """`part` names what is trained where that is not what the job is for; its steps are counted apart."""
        self.last = {**point, "part": part} if part else {**point}
        self._waiting.append(self.last)
        try:
            self._send()
        except LedgerUnavailable as error:
            log.warning("curve point not written yet: %s", error)

    def flush(self) -> None:
        patiently(self._send)

    def _send(self) -> None:
        while self._waiting:
            self._attempt.jobs.add_point(self._attempt.claim, self._waiting[0])
            self._waiting.pop(0)


def check(stop: threading.Event) -> None:
    """Stopped once the event is set."""
    if stop.is_set():
        raise Stopped("stopped by its worker; what is done is kept")


def patiently(call: Callable[[], T], *, within_s: float = 120) -> T:
    """Repeat a call of the ledger while Redis is away. LedgerUnavailable when it stays away longer than `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return call()
        except LedgerUnavailable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("waiting for the ledger: %s", error)
            time.sleep(1)
