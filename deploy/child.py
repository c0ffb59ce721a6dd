"""One process of the Procfile as the launcher holds it: started under a guard, its lines read, kept and logged."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy import guard

LAST_LINES = 20
_LOG_LIMIT_BYTES = 20_000_000


@dataclass(frozen=True)
class ProcessSpec:
    """What a process is. `ready(child)` says whether it does its work; `alive(child)` whether it still does.

    Stages are stopped in ascending order of `stop_stage`, each given up to `grace_s` to end by itself.
    """

    name: str
    command: str
    ready: Callable[["Child"], bool] = lambda child: True
    alive: Callable[["Child"], bool] = lambda child: True
    ready_line: str | None = None
    stop_stage: int = 0
    grace_s: float = 10.0
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running process. `pid` is its guard's; the guard's exit code is the command's (128 + N after signal N)."""

    def __init__(self, spec: ProcessSpec, environment: Mapping[str, str], log: Path, on_line: Callable[[str], None]):
        self.spec = spec
        self.saw_ready_line = False
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._on_line = on_line
        watched, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            guarded(["/bin/sh", "-c", f"exec {spec.command}"], watched),
            env={**environment, **spec.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[watched],
            start_new_session=True,
        )
        os.close(watched)
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, args=(log,), name=f"log-{spec.name}", daemon=True)
        self._reader.start()

    def exit_code(self) -> int | None:
        """None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask the command to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now. The launcher, having adopted the orphans, kills what is left below."""
        self._process.kill()

    def close(self) -> list[str]:
        """After its end: wait for its last lines, and give them."""
        self._reader.join(timeout=2)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return list(self._lines)

    def _read(self, log: Path) -> None:
        assert self._process.stdout is not None
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_name(log.name + ".1"))
        with self._process.stdout as stream, log.open("ab") as sink:
            for raw in stream:
                sink.write(raw)
                sink.flush()
                line = raw.decode("utf-8", "replace").rstrip()
                self._lines.append(line)
                if self.spec.ready_line and self.spec.ready_line in line:
                    self.saw_ready_line = True
                self._on_line(line)


def guarded(command: Sequence[str], lifeline: int) -> list[str]:
    """`command` under a guard that ends it when the other end of the pipe `lifeline` closes."""
    return [sys.executable, "-I", "-S", guard.__file__, str(lifeline), *command]


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    return f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
