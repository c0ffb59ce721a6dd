"""Whole jobs on a real Redis and a real Celery worker: from votes to a live version, killed anywhere."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feedback.ids import JobId
from feedback.jobs import Job, JobState
from feedback.policies import PolicyState
from tests.services import wait_until
from tests.training.stand_in_gateway import stand_in_gateway
from tests.training.workplace import Workplace, make_workplace, trainer_pid
from training.publish import check_files
from training.tokens import ChatTokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MakeWorkplace = Callable[..., Workplace]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, tiny_tokens: ChatTokens, redis_url: str) -> Iterator[MakeWorkplace]:
    with stand_in_gateway(redis_url) as gateway_url:

        def made(name: str = "home", **settings: str) -> Workplace:
            return make_workplace(tmp_path / name, tiny_model, redis_url, gateway_url, tiny_tokens, **settings)

        yield made


def assert_finished_once(place: Workplace, job_id: JobId) -> Job:
    """Done, with exactly one version, judged once and live."""
    job = place.jobs.get(job_id)
    assert job.state is JobState.done, job.error
    view = place.registry.view()
    [policy] = [policy for policy in view.policies.values() if policy.job_id == job_id]
    assert policy.version == job.version == view.live
    assert [step.state for step in policy.history] == [PolicyState.draft, PolicyState.candidate, PolicyState.live]
    assert policy.digest is not None
    check_files(place.home / "adapters" / policy.version, policy.digest)
    steps = [point["step"] for point in place.jobs.curve(job_id)]
    assert steps == list(range(1, len(steps) + 1))
    return job


def test_the_schedule_starts_a_job_by_itself_and_its_version_goes_live(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_RECIPE="smoke", BURNISH_SCHEDULE_MIN_NEW_PAIRS="10", BURNISH_SCHEDULE_SETTLE_S="0")
    place.registry.ensure_base(place.base_digest)
    with place.worker(), place.beat():
        wait_until(lambda: place.jobs.announcement() is not None, within_s=20, what="training announces itself")
        place.vote(16)
        wait_until(lambda: bool(place.jobs.recent()), within_s=20, what="a job is made")
        job = place.wait_for(place.jobs.recent()[0].id, JobState.done)
    assert job.actor == "schedule"
    assert job.n_events == 16
    assert_finished_once(place, job.id)
    assert job.report["pairs"]["trained_on"] + job.report["pairs"]["held_out"] == 16
    assert {check["name"] for check in job.report["gate"]["checks"]} >= {"votes", "kl", "naturalness", "length"}
    assert job.report["promotion"] == "done"
    assert place.jobs.recent() == [place.jobs.get(job.id)], "one round of votes makes one job"


def test_curve_points_are_in_the_job_row_while_it_runs(make: MakeWorkplace) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(epochs=50, batch_pairs=1)
    with place.worker(), place.beat():
        place.wait_for_step(job_id, 3)
        job = place.jobs.get(job_id)
        assert (job.state, job.stage) == (JobState.running, "training")
        assert 0 < job.progress < 1
        point = place.jobs.curve(job_id)[0]
        assert point.keys() >= {"step", "epoch", "loss", "margin", "chosen_logprob", "rejected_logprob", "accuracy"}
        assert point["loss"] == pytest.approx(0.6931, abs=1e-3)
        place.wait_for(job_id, JobState.done)


@pytest.mark.parametrize("victim", ["trainer", "worker"])
def test_a_job_whose_trainer_or_worker_is_killed_is_finished_once_with_the_same_adapter(
    make: MakeWorkplace, victim: str
) -> None:
    place = make()
    place.vote(12)
    recipe = {"epochs": 50, "batch_pairs": 2}
    job_id = place.start_job(**recipe)
    with ExitStack() as stack:
        stack.enter_context(place.beat())
        worker = stack.enter_context(place.worker())
        place.wait_for_step(job_id, 20)
        pid = trainer_pid(job_id)
        assert pid is not None
        os.kill(pid if victim == "trainer" else worker.pid, signal.SIGKILL)
        if victim == "worker":
            wait_until(lambda: trainer_pid(job_id) is None, within_s=10, what="the trainer dies with its worker")
            stack.enter_context(place.worker())
        place.wait_for(job_id, JobState.done)
    job = assert_finished_once(place, job_id)
    assert job.attempt == 2
    assert job.version is not None
    unbroken = run_unbroken(make, place, recipe)
    assert adapter_bytes(place, job) == adapter_bytes(*unbroken)


def run_unbroken(make: MakeWorkplace, former: Workplace, recipe: dict[str, int]) -> tuple[Workplace, Job]:
    """The same votes and recipe in a home of their own, with nobody killed."""
    place = make("unbroken")
    events = former.ledger.standing_events()
    assert events
    job_id = place.start_job(**recipe, max_pair_tokens=2047)  # another id for the same work
    with place.beat(), place.worker():
        return place, place.wait_for(job_id, JobState.done)


def adapter_bytes(place: Workplace, job: Job) -> bytes:
    return (place.home / "adapters" / str(job.version) / "adapter_model.safetensors").read_bytes()


def test_a_worker_that_is_asked_to_stop_leaves_a_checkpoint_and_gives_the_job_back(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_LEASE_S="600")
    place.vote(12)
    job_id = place.start_job(epochs=50, batch_pairs=2)
    with place.beat():
        with place.worker() as worker:
            place.wait_for_step(job_id, 5)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        job = place.jobs.get(job_id)
        assert (job.state, job.attempt) == (JobState.queued, 0)
        assert list((place.home / "jobs" / job_id / "checkpoints").glob("step-*"))
        with place.worker():
            place.wait_for(job_id, JobState.done)
    assert_finished_once(place, job_id)


def test_a_job_that_keeps_crashing_fails_after_three_attempts_with_the_reason(make: MakeWorkplace) -> None:
    place = make()
    place.vote(8)
    job_id = place.start_job()
    weights = place.home / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with place.beat(), place.worker():
        job = place.wait_for(job_id, JobState.failed)
    assert job.error is not None
    assert "model" in job.error
    assert job.attempt <= 3
    assert place.registry.view().policies.keys() == {"v0000-base"}


@pytest.mark.parametrize(
    ("recipe", "says"), [({"beta": 9}, "beta = 9"), ({"bata": 1}, "bata = 1"), ({"min_pairs": 500}, "needs 500")]
)
def test_a_job_that_cannot_work_fails_at_once_in_words(make: MakeWorkplace, recipe: dict[str, int], says: str) -> None:
    place = make()
    place.vote(8)
    job_id = place.start_job(**recipe)
    with place.beat(), place.worker():
        job = place.wait_for(job_id, JobState.failed)
    assert job.error is not None
    assert says in job.error
    assert "Traceback" not in job.error
    assert job.attempt == 1


def test_votes_that_come_while_a_job_runs_wait_for_the_next(make: MakeWorkplace) -> None:
    place = make()
    place.vote(8)
    job_id = place.start_job(epochs=20, batch_pairs=2)
    with place.beat(), place.worker():
        place.wait_for_step(job_id, 1)
        place.vote(4, first=100)
        job = place.wait_for(job_id, JobState.done)
    assert job.n_events == 8
    assert place.ledger.pairs_since(place.jobs.snapshot_ordinal()) == 4
    assert time.time() - job.created_at < 60
