"""One machine, one command: converts the model once, runs the Procfile, and stops it all in the right order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

from honcho.printer import Message, Printer

from deploy import guard
from deploy.child import guarded
from deploy.preflight import CannotStart, HomeLock, require_free, require_model
from deploy.processes import PROCFILE, child_environment, describe, ours_to_start, read_procfile, wanted_ports
from deploy.settings import LaunchSettings
from deploy.supervisor import GaveUp, Supervisor, Surroundings

_STEP_S = 0.1
_STILL_WAITING_EVERY_S = 60.0


class StopWish:
    """Counts the signals that ask for an end: the first asks politely, the second is in a hurry."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def asked(self) -> bool:
        return self.count > 0

    def hurry(self) -> bool:
        return self.count > 1


def run(settings: LaunchSettings, *, procfile: Path = PROCFILE, verbose: bool = False) -> int:
    """Run until a signal or a process that cannot be kept alive; the process's exit code."""
    lock = HomeLock(settings.home)
    try:
        in_order = lock.take()
        wish = StopWish()
        require_model(settings.model.path)
        commands = ours_to_start(settings, read_procfile(procfile))
        require_free(wanted_ports(settings, commands), patience_s=0 if in_order else guard.ORPHAN_GRACE_S + 1)
        if "engine" in commands:
            convert_once(settings, wish)
        return 0 if wish.asked() else _supervise(settings, commands, wish, verbose=verbose)
    except CannotStart as error:
        say(f"cannot start: {error}")
        return 1
    finally:
        lock.release()


def convert_once(settings: LaunchSettings, wish: StopWish) -> None:
    """Make the model's folder on the first start, or name a given one by its digest; it shows its own progress."""
    folder = settings.model_path
    if (folder / "digest.txt").exists():
        return
    say("converting the model, once" if settings.model.path is None else "naming the model by its digest, once")
    command = [sys.executable, "-m", "training.base.convert", str(folder)]
    watched, lifeline = os.pipe()
    with subprocess.Popen(
        guarded(command, watched), env=child_environment(settings, os.environ), pass_fds=[watched]
    ) as conversion:
        os.close(watched)
        while conversion.poll() is None and not wish.asked():
            time.sleep(_STEP_S)
        os.close(lifeline)
    if conversion.returncode != 0 and not wish.asked():
        raise CannotStart(f"the model could not be made in {folder}: see above")


def say(text: str) -> None:
    """A line from the launcher itself. A closed terminal must not keep it from stopping its children."""
    try:
        print(f"burnish: {text}", flush=True)
    except OSError:
        return


def _supervise(settings: LaunchSettings, commands: dict[str, str], wish: StopWish, *, verbose: bool) -> int:
    guard.adopt_orphans()
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    around = Surroundings(
        environment=child_environment(settings, os.environ),
        logs=logs,
        say=say,
        on_line=_printer(commands) if verbose else lambda name, line: None,
    )
    supervisor = Supervisor(describe(settings, commands), around)
    try:
        return _keep_running(settings, supervisor, wish, first=["redis"])
    except GaveUp as error:
        say(str(error))
        return 1
    finally:
        say("stopping")
        supervisor.stop(wish.hurry)
        say("stopped")


def _keep_running(settings: LaunchSettings, supervisor: Supervisor, wish: StopWish, first: Sequence[str]) -> int:
    """Start `first` and wait for them, then the rest; announce once when all do their work; then watch."""
    began = time.monotonic()
    say("starting; a first start takes a minute or two")
    supervisor.start(first)
    everything_started = announced = False
    remind_at = began + _STILL_WAITING_EVERY_S
    while not wish.asked():
        supervisor.step()
        if not everything_started and not supervisor.unready(first):
            supervisor.start()
            everything_started = True
        unready = supervisor.unready()
        if not announced and not unready:
            announced = True
            _announce(settings, time.monotonic() - began)
        elif not announced and time.monotonic() > remind_at:
            remind_at += _STILL_WAITING_EVERY_S
            say(f"still waiting for {', '.join(unready)}; their logs are in {settings.home / 'logs'}")
        time.sleep(_STEP_S)
    return 0


def _announce(settings: LaunchSettings, took_s: float) -> None:
    say(
        f"everything is ready ({took_s:.0f} s)\n\n"
        f"  chat          {settings.ui_url}\n"
        f"  API           {settings.gateway_url}/v1\n"
        f"  status page   {settings.ui_url}/status\n"
        f"  operator key  {settings.home / 'operator.key'}\n"
        f"  logs          {settings.home / 'logs'}\n\n"
        "Ctrl-C stops everything."
    )


def _printer(commands: dict[str, str]) -> Callable[[str, str], None]:
    """Every line of every process on the terminal, as Procfile runners show them."""
    printer = Printer(sys.stdout, width=max(map(len, commands)))

    def show(name: str, line: str) -> None:
        printer.write(Message(type="line", data=line, time=datetime.now().astimezone(), name=name, colour=None))

    return show
