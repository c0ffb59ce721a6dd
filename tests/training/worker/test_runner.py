"""The runner on a real ledger: one job at a time, a lost lease ends the trainer, attempts are bounded."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from feedback.connection import connect
from feedback.errors import LedgerUnavailable
from feedback.ids import JobId, Version
from feedback.jobs import JobState
from feedback.keyspace import Keyspace
from feedback.policies import Policy, PolicyState
from feedback.registry import Why
from tests.services import wait_until
from tests.training.workplace import LINE, Workplace, trainer_pid
from training.settings import Settings
from training.worker import runner
from training.worker.place import own_cores
from training.worker.runner import Runner


def make_runner(place: Workplace, stop: threading.Event | None = None) -> Runner:
    return Runner(
        Settings().model_copy(update={"home": place.home}), place.jobs, place.registry, stop or threading.Event()
    )


def make_draft(job_id: JobId) -> Policy:
    return Policy(
        version=Version("v0001-abc"),
        counter=1,
        state=PolicyState.draft,
        base_digest="ba5e",
        adapter="v0001-abc",
        digest="abc",
        job_id=job_id,
        created_at=0.0,
    )


def break_the_trainer(place: Workplace, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """The trainer's process finds these modules, by name and source, before the installed ones."""
    monkeypatch.setenv("PYTHONPATH", str(place.home))
    for name, source in modules.items():
        (place.home / f"{name}.py").write_text(source)


def test_a_second_job_on_the_same_home_waits_its_turn(place: Workplace) -> None:
    job_id = place.start_job()
    (place.home / "jobs").mkdir()
    with (place.home / "jobs" / ".running").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert make_runner(place).run(job_id) == "busy"
    assert place.jobs.get(job_id).state is JobState.queued


def test_a_job_that_another_worker_holds_is_left_alone(place: Workplace) -> None:
    job_id = place.start_job()
    assert place.jobs.claim(job_id, worker="other", lease_s=60) is not None
    assert make_runner(place).run(job_id) == "taken or ended"
    assert place.jobs.get(job_id).worker == "other"


def test_a_job_that_was_attempted_too_often_has_failed(place: Workplace) -> None:
    job_id = place.start_job()
    place.registry.ensure_base(place.base_digest)
    for _ in range(3):
        claim = place.jobs.claim(job_id, worker="dies", lease_s=0)
        time.sleep(0.01)
    assert claim is not None
    place.registry.add_draft(claim, make_draft(job_id))
    assert make_runner(place).run(job_id) == "given up"
    job = place.jobs.get(job_id)
    assert job.state is JobState.failed
    assert "given up after 3 attempts" in str(job.error)
    left = place.registry.policy(Version("v0001-abc"))
    assert left.state is PolicyState.rejected, "no draft is left behind for the engine to keep"
    assert left.gate is not None
    assert "given up" in left.gate["summary"]


@pytest.mark.slow
def test_a_lost_lease_ends_the_trainer_and_writes_nothing(place: Workplace) -> None:
    job_id = place.start_job(epochs=50, batch_pairs=1)
    came: list[str] = []
    thread = threading.Thread(target=lambda: came.append(make_runner(place).run(job_id)))
    thread.start()
    try:
        place.wait_for_step(job_id, 1)
        pid = trainer_pid(job_id)
        assert pid is not None
        connect(place.redis_url).hset(Keyspace(LINE).job(job_id), "token", "999999")
        wait_until(lambda: trainer_pid(job_id) is None, within_s=20, what="the trainer is ended")
    finally:
        thread.join(30)
    assert came == ["lease lost"]
    assert place.jobs.get(job_id).error is None
    assert not (place.home / "adapters").exists()


@pytest.mark.slow
def test_a_running_job_that_is_cancelled_ends_its_trainer_and_fails_with_who_wanted_it(place: Workplace) -> None:
    job_id = place.start_job(epochs=50, batch_pairs=1)
    came: list[str] = []
    thread = threading.Thread(target=lambda: came.append(make_runner(place).run(job_id)))
    thread.start()
    try:
        place.wait_for_step(job_id, 1)
        place.jobs.cancel(job_id, actor="key k", reason="too slow")
    finally:
        thread.join(60)
    assert came == ["cancelled"]
    job = place.jobs.get(job_id)
    assert (job.state, job.error) == (JobState.failed, "cancelled by key k: too slow")
    assert trainer_pid(job_id) is None


def test_a_job_that_was_cancelled_while_it_waited_for_another_attempt_leaves_no_draft(place: Workplace) -> None:
    job_id = place.start_job()
    place.registry.ensure_base(place.base_digest)
    claim = place.jobs.claim(job_id, worker="dies", lease_s=60)
    assert claim is not None
    place.registry.add_draft(claim, make_draft(job_id))
    place.jobs.release(claim)
    place.jobs.cancel(job_id, actor="key k", reason="too slow")
    assert make_runner(place).run(job_id) == "cancelled"
    assert place.jobs.get(job_id).state is JobState.failed
    assert place.registry.policy(Version("v0001-abc")).state is PolicyState.rejected


def test_a_job_whose_version_went_live_before_it_was_cancelled_has_ended_well(place: Workplace) -> None:
    job_id = place.start_job()
    place.registry.ensure_base(place.base_digest)
    claim = place.jobs.claim(job_id, worker="dies", lease_s=60)
    assert claim is not None
    version = make_draft(job_id).version
    place.registry.add_draft(claim, make_draft(job_id))
    place.registry.judge(claim, version, PolicyState.candidate, gate={"verdict": "pass"}, metrics={})
    place.registry.promote(version, Why("test", "it is better"), epoch=place.registry.epoch())
    place.jobs.release(claim)
    place.jobs.cancel(job_id, actor="key k", reason="too slow")
    assert make_runner(place).run(job_id) == "done"
    job = place.jobs.get(job_id)
    assert (job.state, job.version) == (JobState.done, version)


@pytest.mark.slow
def test_the_trainers_output_is_kept_and_its_end_told(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = place.start_job()
    break_the_trainer(place, monkeypatch, transformers="raise RuntimeError('no such luck')\n")
    assert make_runner(place).run(job_id) == "failed"
    job = place.jobs.get(job_id)
    assert (job.state, job.attempt) == (JobState.queued, 1)
    assert job.error == "the trainer failed unexpectedly: RuntimeError: no such luck; trainer.log says where"
    assert "Traceback" in (place.home / "jobs" / job_id / "trainer.log").read_text()


@pytest.mark.slow
def test_a_trainer_that_ends_without_a_word_is_told_of_with_its_last_lines(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.start_job()
    break_the_trainer(place, monkeypatch, transformers="import os\nprint('no such luck', flush=True)\nos._exit(1)\n")
    assert make_runner(place).run(job_id) == "crashed"
    job = place.jobs.get(job_id)
    assert (job.state, job.attempt) == (JobState.queued, 1)
    assert "ended with code 1" in str(job.error)
    assert "no such luck" in str(job.error)
    assert "no such luck" in (place.home / "jobs" / job_id / "trainer.log").read_text()


@pytest.mark.slow
def test_lack_of_memory_outside_the_loops_ends_the_job_at_once_in_words(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.start_job()
    break_the_trainer(place, monkeypatch, transformers="raise MemoryError('no room')\n")
    assert make_runner(place).run(job_id) == "failed"
    job = place.jobs.get(job_id)
    assert (job.state, job.attempt) == (JobState.failed, 1)
    for words in ("no room", "pass_tokens", "training.recompute_activations"):
        assert words in str(job.error)
    assert "Traceback" not in str(job.error)
    assert "Traceback" in (place.home / "jobs" / job_id / "trainer.log").read_text(), "the log says where it was"


@pytest.mark.slow
def test_a_trainer_that_the_system_killed_says_what_to_change(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.start_job()
    break_the_trainer(place, monkeypatch, torch="import os\nos.kill(os.getpid(), 9)\n")
    assert make_runner(place).run(job_id) == "crashed"
    job = place.jobs.get(job_id)
    assert (job.state, job.attempt) == (JobState.queued, 1)
    for words in ("killed (signal 9)", "pass_tokens", "training.recompute_activations"):
        assert words in str(job.error)


def test_a_ledger_that_stays_away_at_the_end_is_given_up_and_the_lease_runs_out(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.start_job()
    for _ in range(3):
        place.jobs.claim(job_id, worker="dies", lease_s=0)
        time.sleep(0.01)

    def away(*_: object, **__: object) -> None:
        raise LedgerUnavailable("Redis is away")

    monkeypatch.setattr(runner, "_TELL_S", 0)
    monkeypatch.setattr(place.jobs, "fail", away)
    assert make_runner(place).run(job_id) == "given up"
    assert place.jobs.get(job_id).state is JobState.running


HOLD = """
import os, pathlib, signal, time
home = pathlib.Path(os.environ["BURNISH_HOME"])
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
(home / "importing").touch()
while not {until}:
    time.sleep(0.05)
raise SystemExit({code})
"""
"""A `torch` that takes its time to be imported."""


def stop_while_importing(place: Workplace, monkeypatch: pytest.MonkeyPatch, hold: str) -> str:
    """Runs a job whose trainer imports `hold` as torch, and asks to stop as soon as it does."""
    job_id = place.start_job()
    monkeypatch.setenv("PYTHONPATH", str(place.home))
    (place.home / "torch.py").write_text(hold)
    stop, came = threading.Event(), list[str]()
    thread = threading.Thread(target=lambda: came.append(make_runner(place, stop).run(job_id)))
    thread.start()
    try:
        wait_until((place.home / "importing").exists, within_s=60, what="the trainer imports torch")
    finally:
        stop.set()
        thread.join(60)
    job = place.jobs.get(job_id)
    assert (job.state, job.attempt, job.error) == (JobState.queued, 0, None)
    [outcome] = came
    return outcome


def test_a_trainer_that_ends_by_the_signal_to_stop_has_not_crashed(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stop_while_importing(place, monkeypatch, HOLD.format(deaf=True, until=False, code=0)) == "stopped"


def test_a_trainer_hears_that_it_is_to_stop_while_it_still_imports(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for torch waits for the signal's alarm to be set, which only our own handler does."""
    heard = "signal.getitimer(signal.ITIMER_REAL)[0]"
    hold = HOLD.format(deaf=False, until=heard, code="(home / 'heard').touch() or 75")
    assert stop_while_importing(place, monkeypatch, hold) == "stopped"
    assert (place.home / "heard").exists()


def test_processes_take_cores_of_their_own_from_the_last_and_share_where_there_are_too_few() -> None:
    assert [own_cores([0, 1, 2, 3, 4], 2, rank) for rank in range(3)] == [[3, 4], [1, 2], [3, 4]]
    assert [own_cores([7], 4, rank) for rank in range(2)] == [[7], [7]]


def test_the_last_core_is_taken() -> None:
    source = (
        "import os, torch\n"
        "from training.worker.place import place\n"
        "from training.settings import TrainingSection\n"
        "print(place(TrainingSection(device='cpu')), sorted(os.sched_getaffinity(0)), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[0] == f"cpu [{max(os.sched_getaffinity(0))}] 1"
