"""The real services that tests run against: Redis, vLLM with the converted model, the gateway.

Each is a context manager that starts its own process group on a free port and ends that group alone.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from deploy.redis_server import redis_command

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
CHROMIUM_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class ServiceDied(AssertionError):
    """A service ended or stayed unready; the message carries the last lines of its log."""


@dataclass(frozen=True)
class Engine:
    """A running vLLM. `home` is the BURNISH_HOME it was started with; adapters are read below it."""

    url: str
    home: Path
    model_path: Path


@dataclass(frozen=True)
class Gateway:
    """A running gateway and the keys it made in its home."""

    url: str
    home: Path
    redis_url: str

    def key(self, name: str = "operator") -> str:
        """The key in `home/NAME.key`: operator, page or worker."""
        return (self.home / f"{name}.key").read_text(encoding="utf-8").strip()

    def headers(self, name: str = "operator") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key(name)}"}


def missing(what: str) -> NoReturn:
    """A service that is not there: skips on a laptop, fails where CI is set."""
    if IN_CI:
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_chromium() -> str | None:
    return shutil.which("chromium")


def answers(url: str, status: int = 200) -> bool:
    """Whether a GET of `url` answers with `status` right now."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code == status
    except OSError:
        return False


def wait_until(
    true: Callable[[], bool], *, within_s: float, what: str | Callable[[], str], every_s: float = 0.05
) -> None:
    """Poll `true` until it holds; AssertionError naming `what` when it does not in time."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(every_s)


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    ready: Callable[[], bool],
    within_s: float,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` from the repository root until the block ends; enters once `ready()` holds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_ready(process, command, log=log, ready=ready, within_s=within_s)
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes], patience_s: float = 20) -> None:
    """SIGTERM to the process, then SIGKILL to whatever its group still holds."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def start_redis(directory: Path, port: int | None = None) -> Iterator[str]:
    """A durable Redis on our `deploy/redis.conf`; yields its URL (database 0)."""
    port = port or free_port()
    try:
        command = redis_command(directory, port)
    except FileNotFoundError as error:
        missing(str(error))
    with running(command, log=directory / "redis.log", ready=lambda: _pongs(port), within_s=20):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def start_engine(home: Path, model: Path, *, port: int | None = None, **env: str) -> Iterator[Engine]:
    """vLLM through `serve.launch`, LoRA plugin included; `env` adds to its environment."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        **offline(),
        "BURNISH_HOME": str(home),
        "BURNISH_ENGINE_PORT": str(port),
        "BURNISH_ENGINE_URL": url,
        "BURNISH_MODEL_PATH": str(model),
        **env,
    }
    (home / "adapters").mkdir(parents=True, exist_ok=True)
    with running(
        [sys.executable, "-m", "serve.launch"],
        log=home / "logs" / "engine.log",
        ready=lambda: answers(f"{url}/health"),
        within_s=600,
        env=settings,
    ):
        yield Engine(url, home, model)


@contextmanager
def start_gateway(
    home: Path,
    redis_url: str,
    engine_url: str,
    *,
    port: int | None = None,
    model: Path | None = None,
    ready: str = "/readyz",
    within_s: float = 60,
    **env: str,
) -> Iterator[Gateway]:
    """`python -m serve.app`; pass ready="/healthz" where the engine is meant to be gone."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        **offline(),
        "BURNISH_HOME": str(home),
        "BURNISH_GATEWAY_PORT": str(port),
        "BURNISH_GATEWAY_URL": url,
        "BURNISH_REDIS_URL": redis_url,
        "BURNISH_ENGINE_URL": engine_url,
        **({"BURNISH_MODEL_PATH": str(model)} if model else {}),
        **env,
    }
    with running(
        [sys.executable, "-m", "serve.app"],
        log=home / "logs" / "gateway.log",
        ready=lambda: answers(url + ready),
        within_s=within_s,
        env=settings,
    ):
        yield Gateway(url, home, redis_url)


def offline() -> dict[str, str]:
    """What keeps a child from calling anyone outside."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


def _pongs(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _wait_ready(
    process: subprocess.Popen[bytes], command: Sequence[str], *, log: Path, ready: Callable[[], bool], within_s: float
) -> None:
    deadline = time.monotonic() + within_s
    while not ready():
        if process.poll() is not None:
            raise ServiceDied(f"{' '.join(command)} ended with {process.returncode}:\n{_last_lines(log)}")
        if time.monotonic() > deadline:
            raise ServiceDied(f"{' '.join(command)} was not ready within {within_s:g} s:\n{_last_lines(log)}")
        time.sleep(0.05)


def _last_lines(log: Path, count: int = 40) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
