"""What must hold before anything starts: one launcher to a home, a model that is there, and free ports."""

import fcntl
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


class CannotStart(Exception):
    """Why nothing was started, and what to do about it."""


@dataclass(frozen=True)
class PortWish:
    """A port that a process will listen on, and the variable that changes it."""

    name: str
    host: str
    port: int
    variable: str


class HomeLock:
    """Held while a launcher lives; the kernel lets go of it however the launcher ends."""

    def __init__(self, home: Path) -> None:
        # Conversations and keys are below: nobody else's to read.
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = home / "launcher.pid"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        self._held = False

    def take(self) -> bool:
        """Whether the launcher before ended in order; CannotStart, naming it, when it still runs."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = self._path.read_text(encoding="ascii").strip() or "unknown"
            raise CannotStart(
                f"{self._path.parent} is already in use by a running Burnish (process {other}). Stop that one with "
                "Ctrl-C, or run a second copy with another BURNISH_HOME and other ports."
            ) from None
        in_order = not self._path.read_bytes()
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._held = True
        return in_order

    def release(self) -> None:
        if self._held:
            os.truncate(self._descriptor, 0)
        os.close(self._descriptor)


def require_model(given: Path | None) -> None:
    """CannotStart when a model was given and is no folder: nothing is fetched, and everything would wait for it."""
    if given is None or given.expanduser().is_dir():
        return
    raise CannotStart(
        f"BURNISH_MODEL_PATH = {str(given)!r} is no folder, and no model is fetched at the start. If it is a Hugging "
        f"Face id, fetch it once with `hf download {given} --local-dir FOLDER` and set BURNISH_MODEL_PATH to FOLDER."
    )


def require_free(wishes: Iterable[PortWish], patience_s: float = 0.0) -> None:
    """CannotStart naming every port that is taken, by whom, and the variable to change.

    `patience_s`: a launcher that was killed leaves processes that need a few seconds to end.
    """
    wishes = list(wishes)
    deadline = time.monotonic() + patience_s
    while taken := [wish for wish in wishes if not _is_free(wish)]:
        if time.monotonic() >= deadline:
            raise CannotStart("\n".join(_complaint(wish) for wish in taken))
        time.sleep(0.2)
    twice = {wish.port for wish in wishes if sum(wish.port == other.port for other in wishes) > 1}
    if twice:
        shared = ", ".join(f"{wish.variable}={wish.port}" for wish in wishes if wish.port in twice)
        raise CannotStart(f"these need ports of their own: {shared}")


def _is_free(wish: PortWish) -> bool:
    family = socket.AF_INET6 if ":" in wish.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((wish.host, wish.port))
        except OSError:
            return False
    return True


def _complaint(wish: PortWish) -> str:
    holder = _holder(wish.port)
    by = f" by {holder}" if holder else ""
    return f"port {wish.port}, wanted for {wish.name}, is in use{by}: set {wish.variable} to a free port"


def _holder(port: int) -> str | None:
    """Who listens there, as far as this user may know."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})" if connection.pid else None
    return None
