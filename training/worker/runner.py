"""Holds one job while it runs: takes the lease, heartbeats, runs the trainer as a child, says how it ended.

Never imports torch. The job row is the truth: whatever ends here without a word is found by the reconciler once its
lease has run out.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from feedback.errors import LeaseLost, LedgerUnavailable
from feedback.ids import JobId
from feedback.jobs import Claim, JobStore
from feedback.policies import PolicyState
from feedback.registry import Registry
from training.files import read_json
from training.publishing.adapter_folders import remove_rollouts
from training.settings import Settings
from training.worker.attempt import patiently
from training.worker.exits import EXIT_LEASE_LOST, EXIT_REFUSED, EXIT_STOPPED
from training.worker.memory import REMEDY

log = logging.getLogger("training.worker.runner")

_TAIL_LINES = 15
_POLL_S = 0.2
_TELL_S = 30


class Runner:
    """Runs jobs one at a time on this machine's home. `stop` asks the running one to checkpoint and be given back."""

    def __init__(self, settings: Settings, jobs: JobStore, registry: Registry, stop: threading.Event) -> None:
        self._settings = settings
        self._jobs = jobs
        self._registry = registry
        self._stop = stop

    def run(self, job_id: JobId) -> str:
        """Run one attempt; returns what came of it in a word, for the log."""
        with self._turn() as is_mine:
            if not is_mine:
                return "busy"  # the reconciler sends the job again once the running one has ended
            section = self._settings.training
            worker = f"{os.uname().nodename}:{os.getpid()}"
            claim = self._jobs.claim(job_id, worker=worker, lease_s=section.lease_s)
            if claim is None:
                return "taken or ended"
            if (why := self._jobs.get(job_id).cancelled) is not None:
                return self._cancel(claim, why)
            if claim.attempt > section.max_attempts:
                self._fail(claim, f"given up after {section.max_attempts} attempts{self._former_error(job_id)}", False)
                return "given up"
            try:
                return self._attempt(claim)
            except LeaseLost as error:
                log.warning("%s", error)
                return "lease lost"

    def _attempt(self, claim: Claim) -> str:
        folder = self._settings.job_folder(claim.job_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.json").unlink(missing_ok=True)
        log_path = folder / "trainer.log"
        with log_path.open("ab") as sink, self._trainer(claim, sink) as trainer:
            lost = self._attend(claim, trainer)
            code = trainer.returncode
        if lost or code == EXIT_LEASE_LOST:
            return "lease lost"
        if code == 0:
            return "done"
        if (why := self._cancelled(claim)) is not None:
            return self._cancel(claim, why)
        if code == EXIT_STOPPED or (self._stop.is_set() and code != EXIT_REFUSED):
            # Asked to stop, it may end by the signal itself: before it listens, or when its patience is over.
            self._tell(lambda: self._jobs.release(claim))
            return "stopped"
        last = claim.attempt >= self._settings.training.max_attempts
        if code == EXIT_REFUSED and (told := read_json(folder / "error.json")) is not None:
            self._fail(claim, told["message"], told["retry"] and not last)
            return "failed"
        self._fail(claim, _crash(code, log_path), not last)
        return "crashed"

    @contextmanager
    def _trainer(self, claim: Claim, sink: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """The trainer's process; gone when the block ends."""
        command = [sys.executable, "-m", "training.worker.trainer"]
        trainer = subprocess.Popen(
            [*command, claim.job_id, str(claim.token), str(claim.attempt), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "BURNISH_HOME": str(self._settings.home), "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )
        try:
            yield trainer
        finally:
            if trainer.poll() is None:
                trainer.kill()
            trainer.wait()

    def _attend(self, claim: Claim, trainer: subprocess.Popen[bytes]) -> bool:
        """Heartbeat until the trainer has ended; True when the lease was lost meanwhile, and the trainer killed."""
        section = self._settings.training
        next_beat = 0.0
        kill_at: float | None = None
        cancelled = False
        while trainer.poll() is None:
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + section.lease_s / 4
                try:
                    self._jobs.heartbeat(claim, section.lease_s)
                    cancelled = self._jobs.get(claim.job_id).cancelled is not None
                except LeaseLost as error:
                    log.warning("%s", error)
                    trainer.kill()
                    trainer.wait()
                    return True
                except LedgerUnavailable as error:
                    log.warning("no heartbeat, the trainer goes on: %s", error)
            if (self._stop.is_set() or cancelled) and kill_at is None:
                trainer.send_signal(signal.SIGTERM)
                kill_at = now + section.stop_patience_s
            if kill_at is not None and now >= kill_at:
                trainer.kill()
                trainer.wait()
                if cancelled:
                    return False
                self._tell(lambda: self._jobs.release(claim))
                raise LeaseLost(f"job {claim.job_id} was given back without a last checkpoint")
            time.sleep(_POLL_S)
        return False

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """One job at a time in one home, whatever the number of worker processes."""
        path = self._settings.home / "jobs" / ".running"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _fail(self, claim: Claim, error: str, retry: bool) -> None:
        log.error("job %s: %s", claim.job_id, error)
        if not retry:
            self._tell(lambda: self._reject_draft(claim, error))
            self._tell(lambda: self._end_rollouts(claim))
        self._tell(lambda: self._jobs.fail(claim, error, retry=retry))

    def _reject_draft(self, claim: Claim, error: str) -> None:
        """A job that failed for good leaves no draft behind that the engine would keep loaded."""
        for policy in self._registry.view().policies.values():
            if policy.job_id == claim.job_id and policy.state is PolicyState.draft:
                gate = {"verdict": "fail", "summary": f"its job failed: {error}", "checks": []}
                self._registry.judge(claim, policy.version, PolicyState.rejected, gate=gate, metrics={})

    def _end_rollouts(self, claim: Claim) -> None:
        """Nor does it leave what it only sampled from."""
        self._registry.end_rollouts(claim)
        remove_rollouts(self._settings.adapters, claim.job_id)

    def _cancel(self, claim: Claim, why: str) -> str:
        """End a job that somebody wants to end; one whose version went live just before has ended well."""
        view = self._registry.view()
        if view.policy(view.live).job_id == claim.job_id:
            self._tell(lambda: self._jobs.finish(claim, version=view.live))
            return "done"
        self._fail(claim, why, False)
        return "cancelled"

    def _cancelled(self, claim: Claim) -> str | None:
        """Who wants the job to end, and why; None, too, while the ledger cannot say."""
        try:
            return self._jobs.get(claim.job_id).cancelled
        except LedgerUnavailable:
            return None

    def _former_error(self, job_id: JobId) -> str:
        error = self._jobs.get(job_id).error
        return f"; the last one: {error}" if error else ""

    def _tell(self, call: Callable[[], object]) -> None:
        """Say something to the ledger, waiting while Redis is away; given up, the lease runs out by itself."""
        try:
            patiently(call, within_s=_TELL_S)
        except LedgerUnavailable as error:
            log.warning("given up telling the ledger, the job's lease will run out: %s", error)


def _crash(code: int, log_path: Path) -> str:
    """An error message for a trainer that ended without one."""
    if code == -signal.SIGKILL:
        return (
            "the trainer was killed (signal 9), most likely by the system because memory ran out: "
            f"{REMEDY}; see trainer.log in the job's folder"
        )
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"the trainer ended with code {code}; its last lines:\n" + "\n".join(lines[-_TAIL_LINES:])
