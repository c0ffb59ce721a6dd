"""Whole jobs on a real Redis and a real Celery worker: from votes to a live version, killed anywhere."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from feedback.connection import connect
from feedback.ids import BASE_VERSION, JobId
from feedback.jobs import Job, JobState
from feedback.lessons import PREFERRED
from feedback.policies import PolicyState
from tests.services import wait_until
from tests.training.stand_in_gateway import stand_in_gateway
from tests.training.tiny_engine import TinyEngine
from tests.training.workplace import Workplace, make_workplace, trainer_pid
from training.examples.tokens import ChatTokens
from training.publishing.adapter_folders import check_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MakeWorkplace = Callable[..., Workplace]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, tiny_tokens: ChatTokens, redis_url: str) -> Iterator[MakeWorkplace]:
    engine = TinyEngine(tiny_model, tiny_tokens)
    with stand_in_gateway(redis_url, sampler=engine.sampler(tmp_path / "home" / "adapters")) as gateway_url:

        def made(name: str = "home", **settings: str) -> Workplace:
            return make_workplace(tmp_path / name, tiny_model, redis_url, gateway_url, tiny_tokens, **settings)

        yield made


def assert_finished_once(place: Workplace, job_id: JobId) -> Job:
    """Done, with exactly one version, judged once and live."""
    job = assert_judged_once(place, job_id)
    assert job.version == place.registry.view().live, (job.report["promotion"], job.report["gate"]["summary"])
    history = place.registry.policy(job.version).history
    assert [step.state for step in history] == [PolicyState.draft, PolicyState.candidate, PolicyState.live]
    return job


def assert_judged_once(place: Workplace, job_id: JobId) -> Job:
    """Done, with exactly one version, whatever the gate said of it."""
    job = place.jobs.get(job_id)
    assert job.state is JobState.done, job.error
    [policy] = [policy for policy in place.registry.view().policies.values() if policy.job_id == job_id]
    assert policy.version == job.version
    assert [step.state for step in policy.history].count(PolicyState.draft) == 1
    assert sum(step.state in (PolicyState.candidate, PolicyState.rejected) for step in policy.history) == 1
    assert policy.digest is not None
    check_files(place.home / "adapters" / policy.version, policy.digest)
    steps = [point["step"] for point in place.steps(job_id)]
    assert steps == list(range(1, len(steps) + 1))
    return job


def test_the_schedule_starts_a_job_by_itself_and_its_version_goes_live(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_RECIPE="smoke", BURNISH_SCHEDULE_MIN_NEW_PAIRS="16", BURNISH_SCHEDULE_SETTLE_S="0")
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


@pytest.mark.parametrize(
    ("recipe", "learned_from"),
    [
        ({"algorithm": "simpo", "gamma": 0.5, "batch_pairs": 2}, 1),
        ({"algorithm": "kto", "batch_thumbs": 4}, 2),
        ({"algorithm": "sft", "shares": {"preferred": 1.0}, "batch_examples": 2}, 1),
    ],
)
def test_every_kind_of_recipe_ends_with_a_judged_version(
    make: MakeWorkplace, recipe: dict[str, Any], learned_from: int
) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(**recipe)
    with place.beat(), place.worker():
        place.wait_for(job_id, JobState.done)
    job = assert_finished_once(place, job_id)
    votes = job.report["pairs"]
    assert votes["trained_on"] == learned_from * (12 - votes["held_out"])
    assert votes["held_out"] > 0
    assert job.report["training"]["loss"] < place.jobs.curve(job_id)[0]["loss"]


ROLLOUTS = {"rounds": 2, "prompts": 3, "answers": 3, "max_tokens": 6}
REWARD = {"algorithm": "reward", "epochs": 1, "pass_tokens": 200, "adapter": {"rank": 8, "alpha": 16}}


@pytest.mark.parametrize(
    "recipe",
    [
        {"algorithm": "ppo", "rollouts": ROLLOUTS, "reward": REWARD},
        {"algorithm": "grpo", "rollouts": {**ROLLOUTS, "ahead": True}, "reward": REWARD},
        {"algorithm": "online_preference", "rollouts": ROLLOUTS, "reward": REWARD},
    ],
    ids=lambda recipe: recipe["algorithm"],
)
def test_a_recipe_that_learns_from_own_answers_makes_a_reward_model_and_a_judged_version(
    make: MakeWorkplace, recipe: dict[str, Any]
) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(**recipe)
    with place.beat(), place.worker():
        place.wait_for(job_id, JobState.done)
    job = assert_judged_once(place, job_id)
    curve = place.steps(job_id)
    assert {point["round"] for point in curve} == {1, 2}
    assert all({"reward_mean", "reward_spread", "kl", "answer_tokens"} <= point.keys() for point in curve)
    first = place.jobs.curve(job_id)[0]
    assert first.items() >= {"part": "reward model", "step": 1}.items()
    assert {"loss", "accuracy", "reward_margin"} <= first.keys()
    assert "part" not in job.report["training"]
    name = job.report["reward_model"]["name"]
    assert (place.home / "reward_models" / name / "manifest.json").exists()
    assert_nothing_is_left_of_rollouts(place, job)


def assert_nothing_is_left_of_rollouts(place: Workplace, job: Job) -> None:
    assert [path.name for path in (place.home / "adapters").glob("v*")] == [job.version]


@pytest.mark.parametrize("algorithm", ["reward", "pairwise_reward"])
def test_a_recipe_for_a_reward_model_ends_with_one_and_with_no_policy(make: MakeWorkplace, algorithm: str) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(algorithm=algorithm, ensemble=2)
    with place.beat(), place.worker():
        job = place.wait_for(job_id, JobState.done)
    assert job.version is None
    assert list(place.registry.view().policies) == [BASE_VERSION]
    found = job.report["reward_model"]
    assert found["report"]["pairs"] > 0
    assert (place.home / "reward_models" / found["name"] / "manifest.json").exists()
    steps = [point["step"] for point in place.jobs.curve(job_id)]
    assert steps == list(range(1, len(steps) + 1))


def test_an_exported_reward_model_rewards_another_jobs_answers(make: MakeWorkplace) -> None:
    place = make()
    place.vote(12)
    with place.beat(), place.worker():
        made = place.wait_for(place.start_job(**REWARD), JobState.done).report["reward_model"]["name"]
        job_id = place.start_job(algorithm="rloo", rollouts=ROLLOUTS, reward_model=made)
        place.wait_for(job_id, JobState.done)
    job = assert_judged_once(place, job_id)
    assert "reward_model" not in job.report
    assert [path.name for path in (place.home / "reward_models").iterdir()] == [made]
    curve = place.jobs.curve(job_id)
    assert {point["round"] for point in curve} == {1, 2}
    assert all(point["reward_spread"] > 0 for point in curve)


def test_a_job_whose_loss_runs_away_keeps_a_good_checkpoint_and_publishes_nothing(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_CHECKPOINT_S="0")
    place.vote(12)
    runs_away = {"beta": 5, "flip_rate": 0.45, "epochs": 50, "optimizer": {"learning_rate": 1e-2}}
    job_id = place.start_job(algorithm="robust_dpo", batch_pairs=2, **runs_away)
    with place.beat(), place.worker():
        job = place.wait_for(job_id, JobState.failed)
    assert "Lower optimizer.learning_rate (now 0.01)" in str(job.error)
    assert job.attempt == 1, "another attempt would end alike"
    assert list((place.home / "jobs" / job_id / "runs").glob("v*/checkpoints/step-*"))
    assert list(place.registry.view().policies) == [BASE_VERSION]
    assert not list((place.home / "adapters").glob("v*"))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "online_preference"])
def test_a_job_that_is_killed_between_its_rounds_keeps_what_was_answered(make: MakeWorkplace, algorithm: str) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(algorithm=algorithm, rollouts={**ROLLOUTS, "rounds": 5}, reward=REWARD)
    runs = place.home / "jobs" / job_id / "runs"
    with place.beat(), place.worker():
        for attempt in (1, 2):
            wait_until(
                lambda attempt=attempt: len(list(runs.glob("v*/round-*.safetensors"))) > attempt,
                within_s=60,
                what="a round is kept",
            )
            kept = {path: path.stat().st_mtime_ns for path in runs.glob("v*/round-*.safetensors")}
            os.kill(running_trainer(job_id), signal.SIGKILL)
            wait_until(
                lambda attempt=attempt: place.jobs.get(job_id).attempt > attempt, within_s=60, what="another attempt"
            )
            assert all(path.stat().st_mtime_ns == at for path, at in kept.items()), "a kept round is not made again"
        place.wait_for(job_id, JobState.done)
    job = assert_judged_once(place, job_id)
    assert job.attempt == 3
    assert_nothing_is_left_of_rollouts(place, job)


def test_a_job_whose_trainer_and_worker_are_killed_is_finished_once_with_the_same_adapter(make: MakeWorkplace) -> None:
    place = make()
    place.vote(12)
    recipe = {"epochs": 20, "batch_pairs": 2}
    job_id = place.start_job(**recipe)
    with ExitStack() as stack:
        stack.enter_context(place.beat())
        worker = stack.enter_context(place.worker())
        place.wait_for_step(job_id, 10)
        os.kill(running_trainer(job_id), signal.SIGKILL)
        wait_until(lambda: place.jobs.get(job_id).attempt == 2, within_s=60, what="a second attempt")
        place.wait_for_step(job_id, 40)
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: trainer_pid(job_id) is None, within_s=10, what="the trainer dies with its worker")
        stack.enter_context(place.worker())
        place.wait_for(job_id, JobState.done)
    job = assert_finished_once(place, job_id)
    assert job.attempt == 3
    unbroken = run_unbroken(make, recipe)
    assert adapter_bytes(place, job) == adapter_bytes(*unbroken)


@pytest.mark.parametrize(
    "recipe",
    [
        {"algorithm": "kto", "epochs": 20, "batch_thumbs": 4},
        {"algorithm": "sft", "epochs": 20, "batch_examples": 2, "shares": {"preferred": 1.0}},
        {"algorithm": "reward", "epochs": 20, "batch_pairs": 2},
        {"algorithm": "pairwise_reward", "epochs": 20, "batch_pairs": 2},
    ],
    ids=lambda recipe: recipe["algorithm"],
)
def test_a_killed_trainer_of_any_offline_kind_ends_with_what_an_unbroken_one_makes(
    make: MakeWorkplace, recipe: dict[str, Any]
) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(**recipe)
    with place.beat(), place.worker():
        place.wait_for_step(job_id, 10)
        os.kill(running_trainer(job_id), signal.SIGKILL)
        job = place.wait_for(job_id, JobState.done)
    assert job.attempt == 2
    steps = [point["step"] for point in place.jobs.curve(job_id)]
    assert steps == list(range(1, len(steps) + 1))
    assert made_bytes(place, job) == made_bytes(*run_unbroken(make, recipe))


def made_bytes(place: Workplace, job: Job) -> bytes:
    """The policy's adapter, or the reward model where the job ends with one."""
    if job.version is not None:
        return adapter_bytes(place, job)
    return (place.home / "reward_models" / job.report["reward_model"]["name"] / "reward_model.safetensors").read_bytes()


def running_trainer(job_id: JobId) -> int:
    pid = trainer_pid(job_id)
    assert pid is not None
    return pid


def run_unbroken(make: MakeWorkplace, recipe: Mapping[str, Any]) -> tuple[Workplace, Job]:
    """The same votes and recipe in an empty ledger and a home of its own, with nobody killed."""
    place = make("unbroken")
    connect(place.redis_url).flushdb()
    place.vote(12)
    job_id = place.start_job(**recipe)
    with place.beat(), place.worker():
        return place, place.wait_for(job_id, JobState.done)


def adapter_bytes(place: Workplace, job: Job) -> bytes:
    return (place.home / "adapters" / str(job.version) / "adapter_model.safetensors").read_bytes()


HELPERS = b"training.worker.helpers"


def test_a_job_on_two_processes_goes_on_after_the_death_of_one(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_PROCESSES="2")
    place.vote(12)
    job_id = place.start_job(epochs=20, batch_pairs=2, pass_tokens=64)
    with place.beat(), place.worker():
        place.wait_for_step(job_id, 5)
        helper, trainer = trainer_pid(job_id, HELPERS), running_trainer(job_id)
        assert helper is not None
        os.kill(helper, signal.SIGKILL)
        wait_until(lambda: trainer_pid(job_id) != trainer, within_s=10, what="the trainer dies with its helper")
        place.wait_for(job_id, JobState.done)
        # The row says done while the trainer is still about to end its helper.
        wait_until(lambda: trainer_pid(job_id, HELPERS) is None, within_s=10, what="the helper ends with its trainer")
    assert assert_finished_once(place, job_id).attempt == 2


def test_a_job_that_shards_the_base_over_two_processes_samples_learns_and_is_judged(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_PROCESSES="2", BURNISH_TRAINING_SHARDING="base")
    place.vote(12)
    job_id = place.start_job(algorithm="ppo", rollouts=ROLLOUTS, reward=REWARD)
    with place.beat(), place.worker():
        place.wait_for(job_id, JobState.done)
    job = assert_judged_once(place, job_id)
    assert {point["round"] for point in place.steps(job_id)} == {1, 2}
    assert job.report["gate"]["checks"]


def test_a_worker_that_is_asked_to_stop_leaves_a_checkpoint_and_gives_the_job_back(make: MakeWorkplace) -> None:
    place = make(BURNISH_TRAINING_LEASE_S="600")
    place.vote(12)
    job_id = place.start_job(epochs=20, batch_pairs=2)
    with place.beat():
        with place.worker() as worker:
            place.wait_for_step(job_id, 5)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        job = place.jobs.get(job_id)
        assert (job.state, job.attempt) == (JobState.queued, 0)
        assert list((place.home / "jobs" / job_id / "runs").glob("v*/checkpoints/step-*"))
        with place.worker():
            place.wait_for(job_id, JobState.done)
    assert_finished_once(place, job_id)


def test_a_job_whose_trainer_is_always_killed_fails_after_three_attempts(make: MakeWorkplace) -> None:
    place = make()
    place.vote(8)
    job_id = place.start_job()
    killed: set[int] = set()

    def kill_any_trainer() -> bool:
        pid = trainer_pid(job_id)
        if pid is not None and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return place.jobs.get(job_id).state is JobState.failed

    with place.beat(), place.worker():
        wait_until(kill_any_trainer, within_s=60, what="the job is given up")
    job = place.jobs.get(job_id)
    assert (job.attempt, len(killed)) == (3, 3)
    assert job.error is not None
    assert "killed (signal 9)" in job.error
    assert place.registry.view().policies.keys() == {"v0000-base"}


def test_jobs_that_cannot_work_fail_at_once_in_words(make: MakeWorkplace) -> None:
    place = make()
    place.vote(8)
    says = {
        place.start_job(beta=9): "beta = 9",
        place.start_job(bata=1): "bata = 1",
        place.start_job(min_pairs=500): "needs 500",
        place.start_job(adapter={"target_modules": ["q_proj", "lm_head"]}): "no linear layer lm_head; choose of down_",
        place.start_job(algorithm="ppo", reward_model="reward-0123456789ab"): "holds no exported reward model",
    }
    with place.beat(), place.worker():
        for job_id, words in says.items():
            job = place.wait_for(job_id, JobState.failed)
            assert words in str(job.error)
            assert "Traceback" not in str(job.error)
            assert job.attempt == 1
        weights = place.home / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        job = place.wait_for(place.start_job(seed=1), JobState.failed)
    assert "cannot be loaded" in str(job.error)


def test_while_a_job_runs_its_curves_can_be_read_and_new_votes_wait_for_the_next(make: MakeWorkplace) -> None:
    place = make()
    place.vote(12)
    job_id = place.start_job(epochs=20, batch_pairs=2)
    with place.beat(), place.worker():
        place.wait_for_step(job_id, 3)
        job = place.jobs.get(job_id)
        assert (job.state, job.stage) == (JobState.running, "training")
        assert 0 < job.progress < 1
        point = place.jobs.curve(job_id)[0]
        assert point.keys() >= {"step", "epoch", "loss", "margin", "chosen_logprob", "rejected_logprob", "accuracy"}
        assert point["loss"] == pytest.approx(0.6931, abs=1e-3)
        place.vote(4, first=100)
        job = place.wait_for(job_id, JobState.done)
    assert job.n_events == 12
    assert place.ledger.lessons([PREFERRED], after=place.jobs.snapshot_ordinal()) == {PREFERRED: 4}
