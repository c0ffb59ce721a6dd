"""A job's stages in one process, on a tiny model, a real ledger and a stand-in for the gateway."""

import threading
from pathlib import Path

import pytest
import torch

from feedback.events import Rating, Retract, Source, turns_named
from feedback.ids import JobId
from feedback.jobs import Claim, JobState
from feedback.ledger import Speaker
from feedback.policies import PolicyState
from tests.training.stand_in_gateway import stand_in_gateway
from tests.training.workplace import LINE, TENANT, Workplace, make_workplace
from training.attempt import Attempt
from training.errors import NotThere
from training.gateway import Gateway, Patience
from training.job import run
from training.model import SharedBase
from training.settings import Settings
from training.tokens import ChatTokens

NEVER_LOADED = (404,) * 1000


@pytest.fixture
def place(
    tmp_path: Path, tiny_model: Path, tiny_tokens: ChatTokens, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Workplace:
    made = make_workplace(tmp_path / "home", tiny_model, redis_url, "http://127.0.0.1:1", tiny_tokens)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    made.vote(8)
    return made


def claim(place: Workplace, job_id: JobId) -> Claim:
    held = place.jobs.claim(job_id, worker="test", lease_s=600)
    assert held is not None
    return held


def run_attempt(place: Workplace, held: Claim, gateway_url: str) -> None:
    settings = Settings().model_copy(update={"home": place.home})
    attempt = Attempt(
        settings=settings,
        claim=held,
        job=place.jobs.get(held.job_id),
        jobs=place.jobs,
        ledger=place.ledger,
        registry=place.registry,
        gateway=Gateway(gateway_url, "bk-test", LINE, Patience(total_s=60, pause_s=0.05)),
        stop=threading.Event(),
    )
    run(attempt, lambda: SharedBase(settings.model_path, torch.device("cpu")))


def fail_for_good(place: Workplace, held: Claim, error: str) -> None:
    """As the runner ends a job that has no attempt left."""
    for policy in place.registry.view().policies.values():
        if policy.state is PolicyState.draft:
            gate = {"verdict": "fail", "summary": error, "checks": []}
            place.registry.judge(held, policy.version, PolicyState.rejected, gate=gate, metrics={})
    place.jobs.fail(held, error, retry=False)


def test_a_failed_job_that_is_started_again_is_trained_and_judged_anew(place: Workplace, redis_url: str) -> None:
    job_id = place.start_job()
    held = claim(place, job_id)
    with stand_in_gateway(redis_url, troubles=NEVER_LOADED) as url, pytest.raises(NotThere) as failed:
        run_attempt(place, held, url)
    fail_for_good(place, held, str(failed.value))
    [refused] = [each for each in place.registry.view().policies.values() if each.job_id == job_id]
    assert refused.state is PolicyState.rejected
    n_steps = len(place.jobs.curve(job_id))

    assert place.start_job() == job_id
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, claim(place, job_id), url)
    job = place.jobs.get(job_id)
    assert job.state is JobState.done
    assert job.version is not None
    assert job.version != refused.version
    assert [step.state for step in place.registry.policy(job.version).history][:2] == [
        PolicyState.draft,
        PolicyState.candidate,
    ]
    assert [point["step"] for point in place.jobs.curve(job_id)] == list(range(1, n_steps + 1))
    assert job.report["gate"]["checks"]


def test_answers_to_the_built_in_prompts_are_kept_for_each_line_and_base(place: Workplace, redis_url: str) -> None:
    held = claim(place, place.start_job())
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, held, url)
    kept = {path.parent.relative_to(place.home / "samples") for path in (place.home / "samples").rglob("*.jsonl")}
    assert kept == {Path("burnish") / place.base_digest[:12]}


@pytest.mark.parametrize("keep", [False, True])
def test_a_finished_jobs_runs_are_kept_where_a_setting_says_so(
    keep: bool, place: Workplace, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_RUNS", str(keep))
    held = claim(place, place.start_job())
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, held, url)
    assert (place.home / "jobs" / held.job_id / "runs").exists() is keep


def test_thumbs_alone_make_a_judged_version(place: Workplace, redis_url: str) -> None:
    compared = place.ledger.standing_events()
    for event in compared:
        better, worse = turns_named(event.said)
        for turn, value in ((better, "up"), (worse, "down")):
            said = Rating.model_validate({"kind": "rating", "turn_id": turn, "value": value, "source": "simulated"})
            place.ledger.append_event(said, Speaker(TENANT))
        place.ledger.append_event(Retract(kind="retract", event_id=event.id, source=Source.simulated), Speaker(TENANT))
    held = claim(place, place.start_job(algorithm="kto", min_thumbs=1))
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, held, url)
    job = place.jobs.get(held.job_id)
    assert job.state is JobState.done
    assert (job.n_events, job.report["pairs"]["held_out"]) == (2 * len(compared), 0)
    votes = next(check for check in job.report["gate"]["checks"] if check["name"] == "votes")
    assert votes["verdict"] == "inconclusive"
