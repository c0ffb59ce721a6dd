"""The launcher on small processes of its own: restarts, orphans, stopping order, refusals."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.services import ROOT, free_port, wait_until

FAKE = Path(__file__).with_name("fake_process.py")
UP = [sys.executable, "-c", "from deploy.cli import main; main()", "up"]


@dataclass
class Launched:
    process: subprocess.Popen[bytes]
    folder: Path

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def says(self, text: str, within_s: float = 15) -> None:
        try:
            wait_until(lambda: text in self.output(), within_s=within_s, what=text)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.output()}") from None

    def pids(self, name: str) -> list[int]:
        """The pids of the latest start of `name`: its own and its child's."""
        wait_until(lambda: self.starts(name) > 0, within_s=15, what=f"{name} runs")
        return [int(pid) for pid in (self.folder / f"{name}.pids").read_text().splitlines()[-1].split()]

    def starts(self, name: str) -> int:
        notes = self.folder / f"{name}.pids"
        return len(notes.read_text().splitlines()) if notes.exists() else 0


def fake(name: str, port: int | None = None) -> str:
    return f"{name}: python {FAKE} {name} {port or ''}"


@contextmanager
def launched(folder: Path, *lines: str, env: Mapping[str, str] | None = None) -> Iterator[Launched]:
    procfile = folder / "Procfile"
    procfile.write_text("\n".join(lines) + "\n")
    with (folder / "output").open("ab") as sink:
        process = subprocess.Popen(
            [*UP, "--procfile", str(procfile)],
            cwd=ROOT,
            env={**os.environ, "BURNISH_HOME": str(folder / "home"), "NOTES": str(folder), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Launched(process, folder)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_crash_is_reported_by_name_with_its_last_lines_and_healed(tmp_path: Path) -> None:
    crash_once = tmp_path / "crash_once.py"
    crash_once.write_text(
        "import pathlib, signal, sys\n"
        f"mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "print('counting sheep', flush=True)\n"
        "if not mark.exists():\n"
        "    mark.touch()\n"
        "    sys.exit(3)\n"
        "signal.pause()\n"
    )
    with launched(tmp_path, f"shepherd: python {crash_once}", fake("other")) as burnish:
        burnish.says("shepherd is back")
        output = burnish.output()
        assert "shepherd died (exit code 3)" in output
        assert "shepherd | counting sheep" in output
        assert len(burnish.pids("other")) == 2
        assert burnish.starts("other") == 1
        log = tmp_path / "home" / "logs" / "shepherd.log"
        wait_until(lambda: log.read_text() == "counting sheep\n" * 2, within_s=15, what="both starts in one log")


def test_kill_9_of_a_process_heals_and_leaves_no_orphan(tmp_path: Path) -> None:
    with launched(tmp_path, fake("engineer")) as burnish:
        burnish.says("everything is ready")
        pid, child = burnish.pids("engineer")
        os.kill(pid, signal.SIGKILL)
        burnish.says("engineer died (killed by signal 9)")
        wait_until(lambda: burnish.starts("engineer") == 2, within_s=15, what="a second start")
        assert gone(child)


def test_kill_9_of_a_guard_heals_and_leaves_no_orphan(tmp_path: Path) -> None:
    with launched(tmp_path, fake("engineer")) as burnish:
        burnish.says("everything is ready")
        pid, child = burnish.pids("engineer")
        guard = psutil.Process(pid).parent()
        assert guard is not None
        guard.kill()
        burnish.says("engineer is back")
        assert gone(pid)
        assert gone(child)


def test_kill_9_of_the_launcher_leaves_nothing_running(tmp_path: Path) -> None:
    with launched(tmp_path, fake("one"), fake("two")) as burnish:
        left = [pid for name in ("one", "two") for pid in burnish.pids(name)]
        left += [parent.pid for parent in psutil.Process(burnish.process.pid).children()]
        burnish.process.kill()
        wait_until(lambda: all(map(gone, left)), within_s=10, what="every descendant gone")


def test_stopping_goes_from_the_page_to_redis(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("redis", "engine", "gateway", "ui")}
    (tmp_path / "home" / "model").mkdir(parents=True)
    (tmp_path / "home" / "model" / "digest.txt").write_text("0" * 64)
    lines = [fake(name, ports.get(name)) for name in ("redis", "engine", "gateway", "worker", "beat", "ui")]
    env = {f"BURNISH_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    with launched(tmp_path, *lines, env=env) as burnish:
        burnish.says("everything is ready")
        assert f"http://127.0.0.1:{ports['ui']}\n" in burnish.output()
        assert f"http://127.0.0.1:{ports['gateway']}/v1" in burnish.output()
        burnish.process.send_signal(signal.SIGINT)
        assert burnish.process.wait(20) == 0
    ended = (tmp_path / "ended").read_text().split()
    assert ended[:2] == ["ui", "gateway"]
    assert set(ended[2:4]) == {"worker", "beat"}
    assert ended[4:] == ["engine", "redis"]


def test_a_worker_that_lost_its_embedded_beat_is_restarted(tmp_path: Path) -> None:
    with launched(tmp_path, fake("beat") + " -B") as burnish:
        burnish.says("everything is ready")
        os.kill(burnish.pids("beat")[1], signal.SIGKILL)
        burnish.says("beat died (a part of it had ended)")
        burnish.says("beat is back")


def test_a_process_that_keeps_dying_is_given_up_with_the_reason(tmp_path: Path) -> None:
    source = f"""
import os, pathlib, time
from deploy import guard
from deploy.child import ProcessSpec
from deploy.restarts import RestartRules
from deploy.supervisor import GaveUp, Supervisor, Surroundings
guard.adopt_orphans()
rules = RestartRules(first_delay_s=0.01, quick_deaths=3)
around = Surroundings(environment=os.environ, logs=pathlib.Path({str(tmp_path)!r}), say=print, rules=rules)
supervisor = Supervisor([ProcessSpec("hopeless", "sh -c 'echo no luck; exit 9'")], around)
supervisor.start()
try:
    while True:
        supervisor.step()
        time.sleep(0.01)
except GaveUp as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert "hopeless died 3 times in a row soon after its start: giving up" in done.stdout
    assert done.stdout.count("hopeless | no luck") == 3


def test_a_second_launcher_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with launched(tmp_path, fake("one")) as burnish:
        burnish.says("everything is ready")
        second = subprocess.run(
            UP, cwd=ROOT, env={**os.environ, "BURNISH_HOME": str(tmp_path / "home")}, capture_output=True, text=True
        )
        assert second.returncode == 1
        assert f"already in use by a running Burnish (process {burnish.process.pid})" in second.stdout
        assert "BURNISH_HOME" in second.stdout


def test_a_port_in_use_is_named_with_the_variable_that_changes_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with launched(tmp_path, fake("ui", port), env={"BURNISH_UI_PORT": str(port)}) as burnish:
            assert burnish.process.wait(20) == 1
            assert f"port {port}, wanted for ui, is in use" in burnish.output()
            assert "set BURNISH_UI_PORT to a free port" in burnish.output()


def test_a_wrong_setting_is_quoted_by_its_variable(tmp_path: Path) -> None:
    with launched(tmp_path, fake("one"), env={"BURNISH_UI_PORT": "seventy"}) as burnish:
        assert burnish.process.wait(20) == 1
        assert "ui.port = 'seventy' (BURNISH_UI_PORT)" in burnish.output()


@pytest.mark.parametrize("given", ["somebody/some-model", "/no/such/folder"])
def test_a_model_that_is_no_folder_is_refused_with_what_to_do(tmp_path: Path, given: str) -> None:
    with launched(tmp_path, fake("one"), env={"BURNISH_MODEL_PATH": given}) as burnish:
        assert burnish.process.wait(20) == 1
        assert f"BURNISH_MODEL_PATH = '{given}' is no folder" in burnish.output()
        assert f"hf download {given} --local-dir FOLDER" in burnish.output()
        assert burnish.starts("one") == 0
