"""A job's stages in one process, on a tiny model, a real ledger and a stand-in for the gateway."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from feedback.events import Rating, Retract, Source, turns_named
from feedback.ids import BASE_VERSION, JobId
from feedback.jobs import Claim, JobState
from feedback.ledger import Speaker
from feedback.policies import PolicyState
from tests.training.stand_in_gateway import stand_in_gateway
from tests.training.workplace import LINE, TENANT, Workplace
from training.base.model import SharedBase
from training.errors import GivenUp, NotThere, SettingsRefused, Stopped, TooFewPairs, TooFewPrompts
from training.examples.tokens import ChatTokens
from training.job import run
from training.rewards.reward_files import load_reward
from training.rewards.reward_model import Answered
from training.sampling.gateway import Gateway, Patience
from training.settings import Settings
from training.worker.attempt import Attempt

NEVER_LOADED = (404,) * 1000


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


def test_a_failed_job_that_is_started_again_is_trained_and_judged_anew(
    place: Workplace, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_RUNS", "true")
    job_id = place.start_job()
    held = claim(place, job_id)
    with stand_in_gateway(redis_url, troubles=NEVER_LOADED) as url, pytest.raises(NotThere) as failed:
        run_attempt(place, held, url)
    fail_for_good(place, held, str(failed.value))
    [refused] = [each for each in place.registry.view().policies.values() if each.job_id == job_id]
    assert refused.state is PolicyState.rejected
    runs = place.home / "jobs" / job_id / "runs"
    assert [path.name for path in runs.iterdir()] == ["v0001"], "what failed can be looked at"
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
    assert [path.name for path in runs.iterdir()] == ["v0002"]


def test_a_job_that_was_cut_off_while_it_failed_for_good_does_not_end_well(place: Workplace, redis_url: str) -> None:
    held = claim(place, place.start_job())
    with stand_in_gateway(redis_url, troubles=NEVER_LOADED) as url, pytest.raises(NotThere):
        run_attempt(place, held, url)
    [draft] = [each for each in place.registry.view().policies.values() if each.state is PolicyState.draft]
    gate = {"verdict": "fail", "summary": "its job failed: no such version", "checks": []}
    place.registry.judge(held, draft.version, PolicyState.rejected, gate=gate, metrics={})
    place.jobs.release(held)  # instead of saying that it failed
    with stand_in_gateway(redis_url) as url, pytest.raises(GivenUp, match="no such version"):
        run_attempt(place, claim(place, held.job_id), url)
    assert place.jobs.get(held.job_id).state is JobState.running


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


def test_what_is_left_out_of_replayed_text_and_what_the_base_cannot_read_stand_in_the_report(
    place: Workplace, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Question {i}?"}], "answer": "Yes."} for i in range(9)]
    rows[0]["answer"], rows[1]["answer"] = "a" * 300, "b" * 600
    (place.home / "replay.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("BURNISH_TRAINING_REPLAY", str(place.home / "replay.jsonl"))
    shares = {"preferred": 1, "replay": 1}
    held = claim(place, place.start_job(algorithm="sft", shares=shares, min_demonstrations=1))
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, held, url)
    report = place.jobs.get(held.job_id).report
    assert "more than the base's context of 512 tokens" in report["context"]
    told = report["pairs"]
    assert told["left_out"]["replay: longer than 512 tokens"] == 1
    left_out = sum(n for reason, n in told["left_out"].items() if reason.startswith("replay: "))
    assert told["trained_on"] == 8 - told["held_out"] + 9 - left_out


def test_a_job_that_is_cancelled_is_not_promoted(place: Workplace, redis_url: str) -> None:
    held = claim(place, place.start_job())
    place.jobs.cancel(held.job_id, actor="key k", reason="it is not wanted")
    with stand_in_gateway(redis_url) as url, pytest.raises(Stopped, match=r"not promoted: .* it is not wanted"):
        run_attempt(place, held, url)
    assert place.registry.view().live == BASE_VERSION


@pytest.mark.parametrize("decision", ["promote", "canary", "hold"])
def test_what_becomes_of_a_version_that_did_not_fail_is_a_setting(
    place: Workplace, redis_url: str, decision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_GATE_ON_PASS", decision)
    monkeypatch.setenv("BURNISH_GATE_ON_INCONCLUSIVE", decision)
    held = claim(place, place.start_job())
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, held, url)
    job = place.jobs.get(held.job_id)
    assert job.version is not None
    states = {"promote": PolicyState.live, "canary": PolicyState.canary, "hold": PolicyState.candidate}
    assert place.registry.policy(job.version).state is states[decision], job.report
    assert (job.report["promotion"] == "done") == (decision != "hold")


@pytest.mark.parametrize(("context_tokens", "asks_people"), [(512, True), (1, False)])
def test_the_gate_asks_the_prompts_of_people_that_leave_room_for_an_answer(
    place: Workplace, redis_url: str, context_tokens: int, asks_people: bool
) -> None:
    place.vote(4, first=8)
    held = claim(place, place.start_job())
    bodies: list[dict[str, Any]] = []
    with stand_in_gateway(redis_url, bodies=bodies, context_tokens=context_tokens) as url:
        run_attempt(place, held, url)
    asked = {body["messages"][0]["content"] for body in bodies}
    of_people = {text for text in asked if text.startswith("Question number")}
    assert bool(of_people) is asks_people
    assert len(asked - of_people) >= 32, "the built-in ones are asked at any rate"


def test_a_policy_without_room_for_its_answers_is_refused_before_anything_is_trained(
    place: Workplace, redis_url: str
) -> None:
    held = claim(place, place.start_job(algorithm="ppo", rollouts={"max_tokens": 500}))
    with stand_in_gateway(redis_url) as url, pytest.raises(TooFewPrompts, match=r"max_tokens = 500 in .* 512 tokens"):
        run_attempt(place, held, url)
    assert place.jobs.curve(held.job_id) == []
    assert not (place.home / "reward_models").exists()


def test_a_text_to_replay_that_was_changed_after_the_job_was_made_is_refused(
    place: Workplace, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.home / "replay.jsonl").write_text('{"messages": [{"role": "user", "content": "Tea?"}], "answer": "Yes."}')
    monkeypatch.setenv("BURNISH_TRAINING_REPLAY", str(place.home / "replay.jsonl"))
    shares = {"preferred": 1, "replay": 1}
    held = claim(place, place.start_job(algorithm="sft", shares=shares, replay_digest="0" * 64))
    with stand_in_gateway(redis_url) as url, pytest.raises(SettingsRefused, match="was changed after the job was made"):
        run_attempt(place, held, url)


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


def test_scores_alone_make_a_reward_model_with_a_head_for_each_aspect(
    place: Workplace, redis_url: str, tiny_tokens: ChatTokens
) -> None:
    place.score(12)
    recipe = {"algorithm": "reward", "heads": ["helpful", "harmless"], "epochs": 6, "margin_per_step": 0.25}
    held = claim(place, place.start_job(**recipe, batch_pairs=2, optimizer={"learning_rate": 5e-3}))
    with stand_in_gateway(redis_url) as url:
        run_attempt(place, held, url)
    job = place.jobs.get(held.job_id)
    assert job.state is JobState.done
    examples = job.report["pairs"]
    assert examples["trained_on"] + examples["held_out"] == 24
    assert examples["held_out"] > 0
    assert examples["left_out"] == {"aspect overall: not learned from by this recipe": 8}
    made = job.report["reward_model"]
    assert made["report"]["pairs"] + made["calibration"]["pairs"] == examples["held_out"]
    folder = place.home / "reward_models" / made["name"]
    base = SharedBase(place.home / "model", torch.device("cpu"))
    model = load_reward(folder, base, tiny_tokens, place.base_digest)
    prompt = tiny_tokens.prompt([{"role": "user", "content": "Question number 3?"}])
    short, long = (tiny_tokens.answer(text) for text in ("Yes.", "No, I do not think so at all."))
    of_short, of_long = model.rewards([Answered(prompt, short), Answered(prompt, long)])
    assert of_short.heads["helpful"] > of_long.heads["helpful"] + 0.5
    assert of_long.heads["harmless"] > of_short.heads["harmless"] + 0.5


def test_a_head_that_nobody_scored_is_refused_before_the_model_is_loaded(place: Workplace, redis_url: str) -> None:
    place.score(12)
    held = claim(place, place.start_job(algorithm="reward", heads=["helpful", "honest"]))
    with stand_in_gateway(redis_url) as url, pytest.raises(TooFewPairs, match=r"honest \(0\)"):
        run_attempt(place, held, url)
    job = place.jobs.get(held.job_id)
    assert job.stage == "curating votes"
    told = job.report["pairs"]
    assert told["trained_on"] + told["held_out"] == 12, "of the one aspect that was scored"
    assert told["left_out"] == {
        "aspect overall: not learned from by this recipe": 8,
        "aspect harmless: not learned from by this recipe": 12,
    }
