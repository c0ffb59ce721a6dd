"""Runs one command and sees that nothing it started outlives it, or outlives the launcher.

A script on the standard library alone: `python -I -S guard.py PIPE_FD command…`. SIGTERM is passed on to the command
only. When the command ends, by itself or by kill -9, every process it left behind is killed (vLLM's EngineCore is
such a one). When the launcher's end of the pipe closes, the command is ended, with force after a few seconds.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Sequence
from types import FrameType

ORPHAN_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on, descendants whose parents die become this process's children, not init's (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_children(keep: Collection[int] = ()) -> None:
    """Kill and reap every child but `keep`, and what they leave behind, until there is none (needs adopt_orphans)."""
    while strays := [pid for pid in _children() if pid not in keep]:
        for pid in strays:
            _send(pid, signal.SIGKILL)
        for pid in strays:
            _reap(pid)


def exit_code(wait_status: int) -> int:
    """A shell's convention: 128 + N for a command that ended by signal N."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def main(arguments: Sequence[str]) -> int:
    pipe = int(arguments[0])
    os.set_inheritable(pipe, False)
    adopt_orphans()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _ignore)
    pid = _spawn(arguments[1:])
    status = _watch(pid, pipe, wake_read)
    kill_children()
    return exit_code(status)


def _watch(pid: int, pipe: int, wake: int) -> int:
    """The command's wait status, once it has ended."""
    watched = [pipe, wake]
    deadline: float | None = None
    while True:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select(watched, [], [], patience)
        if wake in readable:
            received = os.read(wake, 4096)
            if any(number in received for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
                _send(pid, signal.SIGTERM)
        if pipe in readable and not os.read(pipe, 1):
            watched.remove(pipe)
            _send(pid, signal.SIGTERM)
            deadline = time.monotonic() + ORPHAN_GRACE_S
        if deadline is not None and time.monotonic() >= deadline:
            _send(pid, signal.SIGKILL)
        status = _reaped(pid)
        if status is not None:
            return status


def _reaped(command: int) -> int | None:
    """Reap whoever has ended; the command's status when it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == command:
            return status
        if pid == 0:
            return None


def _spawn(command: Sequence[str]) -> int:
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    try:
        if os.getppid() == guard:
            os.execvp(command[0], list(command))
    except OSError as error:
        print(f"cannot run {command[0]!r}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)


def _children() -> list[int]:
    """The pids of this process's direct children, ended ones that nobody reaped included."""
    mine = str(os.getpid()).encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:
                # The command's name, in parentheses, may hold anything; the parent's pid is the second field after it.
                parent = stat.read().rpartition(b")")[2].split()[1]
        except OSError:
            continue
        if parent == mine:
            found.append(int(entry))
    return found


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def _ignore(number: int, frame: FrameType | None) -> None:
    """A Python handler must be there for the wakeup descriptor to be written to."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
