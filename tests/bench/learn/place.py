"""A Burnish of the harness's own: home, ports, the processes of `burnish up` without the pages, its ledger.

They end with the harness, however it ends. What they were doing is in the home, and goes on with the next run.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.child import guarded
from deploy.processes import PROCFILE
from feedback.connection import connect
from feedback.ids import LineName
from feedback.jobs import JobStore
from feedback.ledger import Ledger
from tests.services import ROOT, answers, end_group, free_port
from training.errors import Stopped

LINE = LineName("burnish")
READY_S = 600.0
"""How long a first start may take, in which the model is converted."""


class PlaceFailed(Exception):
    """The processes did not start, or ended; the message says where their logs are."""


@dataclass(frozen=True)
class Place:
    """A running Burnish with the parts of it that the harness uses directly."""

    home: Path
    gateway_url: str
    redis_url: str
    model: Path
    jobs: JobStore
    ledger: Ledger
    check: Callable[[], None]

    def key(self, name: str) -> str:
        """The key in `home/NAME.key`: page, worker or operator."""
        return (self.home / f"{name}.key").read_text(encoding="utf-8").strip()

    @property
    def base_digest(self) -> str:
        return (self.model / "digest.txt").read_text(encoding="utf-8").strip()


@contextmanager
def running_place(
    home: Path, model: Path | None, stop: threading.Event, settings: Mapping[str, str] | None = None
) -> Iterator[Place]:
    """Start everything, enter when all of it does its work, end it in order. PlaceFailed when it does not start.

    `settings` are environment variables on top of the harness's own.
    """
    home.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ("REDIS", "ENGINE", "GATEWAY")}
    gateway_url, redis_url = (
        f"{scheme}://127.0.0.1:{ports[name]}" for scheme, name in (("http", "GATEWAY"), ("redis", "REDIS"))
    )
    watched, lifeline = os.pipe()
    with (home / "up.log").open("ab") as log:
        up = subprocess.Popen(
            guarded([sys.executable, "-m", "deploy.cli", "up", "--procfile", str(procfile(home))], watched),
            cwd=ROOT,
            env={**environment(home, model, ports, os.environ), **(settings or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[watched],
            start_new_session=True,
        )
    os.close(watched)

    def check() -> None:
        if stop.is_set():
            raise Stopped("stopped; run the same command again to go on")
        if up.poll() is not None:
            raise PlaceFailed(f"`burnish up` ended with {up.returncode}; see {home / 'up.log'} and {home / 'logs'}")

    try:
        wait_ready(f"{gateway_url}/readyz", check)
        client = connect(f"{redis_url}/0")
        folder = model or home / "model"
        yield Place(home, gateway_url, redis_url, folder, JobStore(client, LINE), Ledger(client, LINE), check)
    finally:
        end_group(up, patience_s=90)
        os.close(lifeline)


def environment(
    home: Path, model: Path | None, ports: Mapping[str, int], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Everybody's environment without settings from elsewhere, which would change what is measured.

    Jobs are started by the harness alone, nothing goes live, and what the rounds answered is kept. A job learns on
    every core: nobody chats meanwhile, and the engine is asked for a round's answers only.
    """
    others = {name: value for name, value in inherited.items() if not name.startswith("BURNISH_")}
    return {
        **others,
        "PYTHONPATH": str(ROOT),
        "BURNISH_CONFIG": str(home / "burnish.toml"),
        "BURNISH_HOME": str(home),
        **({"BURNISH_MODEL_PATH": str(model)} if model else {}),
        **{f"BURNISH_{name}_PORT": str(port) for name, port in ports.items()},
        "BURNISH_SCHEDULE_ENABLED": "false",
        "BURNISH_GATE_ON_INCONCLUSIVE": "hold",
        "BURNISH_GATE_CONCURRENCY": "32",
        "BURNISH_TRAINING_KEEP_RUNS": "true",
        "BURNISH_TRAINING_THREADS": str(len(os.sched_getaffinity(0))),
    }


def procfile(home: Path) -> Path:
    """The shipped list of processes without the pages."""
    lines = PROCFILE.read_text(encoding="utf-8").splitlines()
    path = home / "Procfile"
    path.write_text("\n".join(line for line in lines if not line.startswith("ui:")) + "\n", encoding="utf-8")
    return path


def wait_ready(url: str, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + READY_S
    while not answers(url):
        check()
        if time.monotonic() > deadline:
            raise PlaceFailed(f"{url} was not ready within {READY_S:g} s")
        time.sleep(0.5)


def stop_after(minutes: float | None) -> threading.Event:
    """Set when the minutes are over, or when a signal asks to stop."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.set())
    if minutes is not None:
        timer = threading.Timer(60 * minutes, stop.set)
        timer.daemon = True
        timer.start()
    return stop
