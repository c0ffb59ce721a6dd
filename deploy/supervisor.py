"""Keeps the processes of the Procfile running: starts, watches, restarts, stops them in order.

Single-threaded: the launcher calls `step` several times a second. What to say to the person is handed in.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.child import Child, ProcessSpec, how_it_ended
from deploy.guard import kill_children
from deploy.restarts import RestartRules, quick_deaths_after, restart_delay_s

_PROBE_EVERY_S = 0.5
_ALIVE_EVERY_S = 2.0
# A process that dies again and again says the same each time.
_LINES_AGAIN = 5


class GaveUp(Exception):
    """A process died too often too quickly; the message names it."""


@dataclass
class _Slot:
    """One process over its restarts. Times are monotonic seconds."""

    spec: ProcessSpec
    child: Child | None = None
    started_at: float = 0.0
    ready_at: float | None = None
    quick_deaths: int = 0
    restart_at: float | None = None
    next_probe_at: float = 0.0
    missed: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What every child gets, and whom to tell."""

    environment: Mapping[str, str]
    logs: Path
    say: Callable[[str], None]
    on_line: Callable[[str, str], None] = lambda name, line: None
    rules: RestartRules = field(default_factory=RestartRules)


class Supervisor:
    def __init__(self, specs: Sequence[ProcessSpec], around: Surroundings) -> None:
        self._slots = {spec.name: _Slot(spec) for spec in specs}
        self._around = around

    def start(self, names: Sequence[str] | None = None) -> None:
        """Start those named, or all that do not run yet."""
        for name, slot in self._slots.items():
            if slot.child is None and (names is None or name in names):
                self._start(slot)

    def unready(self, names: Sequence[str] | None = None) -> list[str]:
        """Who, among those named or all, does not do its work yet."""
        return [
            name for name, slot in self._slots.items() if slot.ready_at is None and (names is None or name in names)
        ]

    def step(self) -> None:
        """Notice deaths, start what is due, probe who is not ready yet. GaveUp when a process cannot be kept alive."""
        now = time.monotonic()
        for slot in self._slots.values():
            if slot.child is not None:
                self._watch(slot, slot.child, now)
            elif slot.restart_at is not None and now >= slot.restart_at:
                self._start(slot)

    def stop(self, hurry: Callable[[], bool]) -> None:
        """End all, stage by stage; once `hurry()` holds, by force."""
        running = {slot.spec.name: slot.child for slot in self._slots.values() if slot.child is not None}
        for stage in sorted({child.spec.stop_stage for child in running.values()}):
            members = [child for child in running.values() if child.spec.stop_stage == stage]
            for child in members:
                child.terminate()
            self._await_end(members, hurry)
        for slot in self._slots.values():
            slot.child = None
        kill_children()

    def _await_end(self, members: Sequence[Child], hurry: Callable[[], bool]) -> None:
        asked_at = time.monotonic()
        waiting = list(members)
        while waiting:
            waited_s = time.monotonic() - asked_at
            for child in list(waiting):
                if child.exit_code() is None and not hurry() and waited_s < child.spec.grace_s:
                    continue
                if child.exit_code() is None:
                    if not hurry():
                        self._around.say(f"{child.spec.name} did not end within {child.spec.grace_s:g} s: killed")
                    child.kill()
                    self._await_exit(child)
                child.close()
                waiting.remove(child)
            time.sleep(0.02)

    @staticmethod
    def _await_exit(child: Child) -> None:
        while child.exit_code() is None:
            time.sleep(0.01)

    def _start(self, slot: _Slot) -> None:
        name = slot.spec.name
        slot.started_at = time.monotonic()
        slot.ready_at = slot.restart_at = None
        slot.next_probe_at = 0.0
        slot.missed = 0
        slot.child = Child(
            slot.spec,
            self._around.environment,
            self._around.logs / f"{name}.log",
            lambda line: self._around.on_line(name, line),
        )

    def _watch(self, slot: _Slot, child: Child, now: float) -> None:
        code = child.exit_code()
        if code is not None:
            self._bury(slot, child, how_it_ended(code), now)
        elif now < slot.next_probe_at:
            return
        elif slot.ready_at is None:
            slot.next_probe_at = now + _PROBE_EVERY_S
            if slot.spec.ready(child):
                self._note_ready(slot)
        else:
            slot.next_probe_at = now + _ALIVE_EVERY_S
            slot.missed = 0 if slot.spec.alive(child) else slot.missed + 1
            if slot.missed >= 2:
                child.kill()
                Supervisor._await_exit(child)
                self._bury(slot, child, "a part of it had ended", now)

    def _note_ready(self, slot: _Slot) -> None:
        slot.ready_at = time.monotonic()
        slot.next_probe_at = slot.ready_at + _ALIVE_EVERY_S
        again = "is back" if slot.quick_deaths else "is ready"
        self._around.say(f"{slot.spec.name} {again} ({slot.ready_at - slot.started_at:.1f} s)")

    def _bury(self, slot: _Slot, child: Child, reason: str, now: float) -> None:
        """Report a death, clear away what it left behind, and set the time of its next start."""
        name = slot.spec.name
        slot.child = None
        kill_children(keep={other.child.pid for other in self._slots.values() if other.child is not None})
        lines = child.close()
        ready_for_s = None if slot.ready_at is None else now - slot.ready_at
        slot.ready_at = None
        slot.quick_deaths = quick_deaths_after(self._around.rules, slot.quick_deaths, ready_for_s)
        delay_s = restart_delay_s(self._around.rules, slot.quick_deaths)
        shown = lines if slot.quick_deaths == 1 else lines[-_LINES_AGAIN:]
        last = "".join(f"\n    {name} | {line}" for line in shown) or " none"
        self._around.say(f"{name} died ({reason}) after {now - slot.started_at:.1f} s. Its last lines:{last}")
        if delay_s is None:
            raise GaveUp(
                f"{name} died {slot.quick_deaths} times in a row soon after its start: giving up. "
                f"Its whole log is {self._around.logs / (name + '.log')}"
            )
        slot.restart_at = now + delay_s
        self._around.say(f"{name} starts again in {delay_s:g} s")
