"""The policy registry and the job rows on a real Redis."""

import threading
import time
from typing import Any

import pytest

from feedback.connection import Client, connect
from feedback.errors import LeaseLost, MoveRefused, StaleRegistry, UnknownJob
from feedback.ids import BASE_VERSION, EventId, JobId, LineName
from feedback.jobs import Claim, JobRequest, JobState, JobStore
from feedback.policies import Imported, Policy, PolicyState, version_name
from feedback.registry import Registry, Why

LINE = LineName("burnish")


@pytest.fixture
def client(redis_url: str) -> Client:
    return connect(redis_url)


@pytest.fixture
def registry(client: Client) -> Registry:
    registry = Registry(client, LINE)
    registry.ensure_base("b" * 64)
    return registry


@pytest.fixture
def jobs(client: Client) -> JobStore:
    return JobStore(client, LINE)


def make_request(**overrides: Any) -> JobRequest:
    fields: dict[str, Any] = {
        "recipe": "dpo",
        "recipe_body": {"beta": 0.1},
        "base_digest": "b" * 64,
        "code_version": "1",
        "event_ids": [EventId("ev-1"), EventId("ev-2")],
        "pairs_ordinal": 2,
        "actor": "schedule",
        "reason": "64 new pairs",
    }
    return JobRequest(**(fields | overrides))


def claimed(jobs: JobStore, lease_s: float = 60, **overrides: Any) -> Claim:
    job = jobs.create(make_request(**overrides)).job
    claim = jobs.claim(job.id, worker="w1", lease_s=lease_s)
    assert claim is not None
    return claim


def draft(registry: Registry, claim: Claim) -> Policy:
    policy = trained(registry, claim, "d" * 64)
    registry.add_draft(claim, policy)
    return policy


def trained(registry: Registry, claim: Claim, digest: str) -> Policy:
    counter = registry.reserve(claim)
    version = version_name(counter, digest)
    return Policy(
        version=version,
        counter=counter,
        state=PolicyState.draft,
        parent=BASE_VERSION,
        base_digest="b" * 64,
        adapter=version,
        digest=digest,
        rank=16,
        job_id=claim.job_id,
        created_at=time.time(),
    )


def test_the_base_is_live_from_the_start_and_another_base_is_refused(
    registry: Registry,
) -> None:
    view = registry.view()
    assert (view.live, view.previous, view.epoch) == (BASE_VERSION, None, 1)
    assert registry.ensure_base("b" * 64).epoch == 1
    with pytest.raises(StaleRegistry, match="another model"):
        registry.ensure_base("c" * 64)


def test_a_policy_is_trained_judged_promoted_and_rolled_back_and_every_step_is_audited(
    registry: Registry, jobs: JobStore
) -> None:
    claim = claimed(jobs)
    version = draft(registry, claim).version
    registry.judge(
        claim,
        version,
        PolicyState.candidate,
        gate={"verdict": "pass"},
        metrics={"kl": 0.1},
    )
    epoch = registry.epoch()
    view = registry.promote(version, Why("op", "looks good"), epoch=epoch)
    assert (view.live, view.previous) == (version, BASE_VERSION)
    assert view.policies[version].gate == {"verdict": "pass"}
    view = registry.rollback(Why("op", "people dislike it"))
    assert (view.live, view.policies[version].state) == (
        BASE_VERSION,
        PolicyState.withdrawn,
    )
    with pytest.raises(MoveRefused):
        registry.promote(version, Why("op", "again"), epoch=registry.epoch())
    trail = [(entry.action, entry.version, entry.actor) for entry in registry.audit()]
    assert trail == [
        ("rollback", version, "op"),
        ("promote", version, "op"),
        ("candidate", version, "gate"),
        ("draft", version, f"job {claim.job_id}"),
    ]


def test_the_same_report_judges_a_draft_once_though_json_keeps_no_tuples(registry: Registry, jobs: JobStore) -> None:
    claim = claimed(jobs)
    version = draft(registry, claim).version
    gate = {"verdict": PolicyState.rejected, "checks": ({"name": "length", "interval": (0.1, 0.2)},)}
    judged = registry.judge(claim, version, PolicyState.rejected, gate=gate, metrics={})
    assert registry.judge(claim, version, PolicyState.rejected, gate=gate, metrics={}) == judged
    with pytest.raises(MoveRefused):
        registry.judge(claim, version, PolicyState.candidate, gate={**gate, "checks": ()}, metrics={})


def test_a_decision_on_an_old_epoch_is_refused(registry: Registry, jobs: JobStore) -> None:
    claim = claimed(jobs)
    version = draft(registry, claim).version
    epoch = registry.epoch()
    registry.judge(claim, version, PolicyState.candidate, gate={}, metrics={})
    with pytest.raises(StaleRegistry, match=str(epoch)):
        registry.promote(version, Why("op", "r"), epoch=epoch)
    assert registry.view().live == BASE_VERSION


def test_of_ten_promotions_at_one_epoch_one_happens(registry: Registry, jobs: JobStore) -> None:
    claim = claimed(jobs)
    version = draft(registry, claim).version
    registry.judge(claim, version, PolicyState.candidate, gate={}, metrics={})
    epoch, outcomes = registry.epoch(), []

    def promote() -> None:
        try:
            registry.promote(version, Why("op", "r"), epoch=epoch)
            outcomes.append("done")
        except (StaleRegistry, MoveRefused) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=promote) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("done") == 1
    assert [e.action for e in registry.audit()].count("promote") == 1


def test_the_same_work_is_the_same_job_and_a_failed_one_waits_again(
    jobs: JobStore,
) -> None:
    first = jobs.create(make_request())
    again = jobs.create(make_request(actor="op", reason="me too"))
    other = jobs.create(make_request(recipe_body={"beta": 0.2}))
    assert (first.created, again.created, other.created) == (True, False, True)
    assert again.job == first.job
    assert other.job.id != first.job.id
    assert jobs.snapshot(first.job.id) == ["ev-1", "ev-2"]
    claim = jobs.claim(first.job.id, worker="w", lease_s=60)
    assert claim is not None
    jobs.fail(claim, "no luck", retry=False)
    assert jobs.get(first.job.id).error == "no luck"
    assert jobs.create(make_request()).created
    assert jobs.get(first.job.id).state is JobState.queued


@pytest.mark.parametrize("suffix", [":snapshot", ":curve", "-none"])
def test_a_job_that_is_none_is_unknown_even_where_its_name_ends_like_another_key(jobs: JobStore, suffix: str) -> None:
    claim = claimed(jobs)
    jobs.add_point(claim, {"step": 1, "loss": 0.7})
    job = JobId(claim.job_id + suffix)
    with pytest.raises(UnknownJob, match=job):
        jobs.get(job)
    with pytest.raises(UnknownJob, match=job):
        jobs.snapshot(job)


def test_a_failed_job_that_is_started_again_forgets_its_version_its_report_and_its_curve(
    registry: Registry, jobs: JobStore
) -> None:
    claim = claimed(jobs)
    refused = draft(registry, claim)
    jobs.add_point(claim, {"step": 1, "loss": 0.69})
    jobs.report(claim, report={"pairs": {"trained_on": 2}})
    registry.judge(claim, refused.version, PolicyState.rejected, gate={"verdict": "fail"}, metrics={})
    jobs.fail(claim, "no luck", retry=False)
    anew = jobs.create(make_request()).job
    assert (anew.id, anew.attempt, anew.error, anew.version) == (claim.job_id, 0, None, None)
    assert (anew.started_at, anew.finished_at, anew.report) == (None, None, {})
    assert jobs.curve(anew.id) == []
    again = jobs.claim(anew.id, worker="w2", lease_s=60)
    assert again is not None
    made = draft(registry, again)
    assert made.version != refused.version
    assert registry.policy(made.version).state is PolicyState.draft
    assert registry.policy(refused.version).state is PolicyState.rejected


def test_a_held_job_cannot_be_claimed_until_its_lease_runs_out_and_then_the_old_token_writes_nothing(
    registry: Registry, jobs: JobStore
) -> None:
    claim = claimed(jobs, lease_s=1.5)
    assert jobs.claim(claim.job_id, worker="w2", lease_s=60) is None
    assert jobs.unclaimed(time.time()) == []
    jobs.heartbeat(claim, 1.5)
    time.sleep(1.6)
    assert jobs.unclaimed(time.time()) == [claim.job_id]
    newer = jobs.claim(claim.job_id, worker="w2", lease_s=60)
    assert newer is not None
    assert (newer.attempt, newer.token > claim.token) == (2, True)
    before = jobs.get(claim.job_id)
    for stale_write in (
        lambda: jobs.heartbeat(claim, 60),
        lambda: jobs.report(claim, stage="train"),
        lambda: jobs.add_point(claim, {"step": 1, "loss": 1}),
        lambda: jobs.finish(claim, version=None),
        lambda: jobs.fail(claim, "x", retry=True),
        lambda: jobs.release(claim),
        lambda: registry.reserve(claim),
        lambda: draft(registry, claim),
    ):
        with pytest.raises(LeaseLost):
            stale_write()
    assert jobs.get(claim.job_id) == before
    assert jobs.curve(claim.job_id) == []


def test_the_counter_and_the_draft_of_a_job_are_the_same_for_every_attempt(registry: Registry, jobs: JobStore) -> None:
    claim = claimed(jobs)
    version = draft(registry, claim).version
    jobs.release(claim)
    again = jobs.claim(claim.job_id, worker="w2", lease_s=60)
    assert again is not None
    assert again.attempt == 1
    epoch = registry.epoch()
    assert draft(registry, again).version == version
    assert registry.epoch() == epoch


def test_a_job_that_nobody_took_is_cancelled_at_once_and_may_be_started_again(jobs: JobStore) -> None:
    made = jobs.create(make_request()).job
    ended = jobs.cancel(made.id, actor="key k", reason="the wrong recipe")
    assert (ended.state, ended.error) == (JobState.failed, "cancelled by key k: the wrong recipe")
    assert ended.finished_at is not None
    assert jobs.claim(made.id, worker="w", lease_s=60) is None
    with pytest.raises(MoveRefused, match="is failed; only one that waits or runs"):
        jobs.cancel(made.id, actor="key k", reason="again")
    again = jobs.create(make_request()).job
    assert (again.id, again.state, again.cancelled) == (made.id, JobState.queued, None)


def test_a_cancellation_that_is_sent_twice_as_its_answer_was_lost_is_one(
    jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = jobs.create(make_request()).job
    monkeypatch.setattr("feedback.jobs.new_nonce", lambda: "the same")
    ended = [jobs.cancel(made.id, actor="key k", reason="the wrong recipe") for _ in range(2)]
    assert [each.state for each in ended] == [JobState.failed] * 2


def test_a_job_that_somebody_worked_on_is_left_to_its_worker_to_end(jobs: JobStore) -> None:
    claim = claimed(jobs)
    asked = jobs.cancel(claim.job_id, actor="key k", reason="too slow")
    assert (asked.state, asked.cancelled) == (JobState.running, "cancelled by key k: too slow")
    jobs.cancel(claim.job_id, actor="key k", reason="once more")
    with pytest.raises(MoveRefused, match="is being cancelled; start it again once it has ended"):
        jobs.create(make_request())
    jobs.release(claim)
    waiting = jobs.cancel(claim.job_id, actor="key k", reason="while it waits")
    assert (waiting.state, waiting.cancelled) == (JobState.queued, "cancelled by key k: too slow")
    taken = jobs.claim(claim.job_id, worker="w", lease_s=60)
    assert taken is not None
    jobs.finish(taken, version=None)
    with pytest.raises(MoveRefused, match="is done"):
        jobs.cancel(claim.job_id, actor="key k", reason="too late")
    with pytest.raises(UnknownJob):
        jobs.cancel(JobId("job-none"), actor="key k", reason="x")


def test_what_a_job_trains_on_the_way_has_a_curve_of_its_own_before_the_jobs(jobs: JobStore) -> None:
    claim = claimed(jobs)
    reward = [{"step": step, "loss": loss, "part": "reward model"} for step, loss in ((1, 0.7), (2, 0.6), (2, 0.5))]
    own = [{"step": step, "loss": loss} for step, loss in ((1, 0.4), (2, 0.3))]
    for point in (*reward, *own):
        jobs.add_point(claim, point)
    assert jobs.curve(claim.job_id) == [reward[0], reward[2], *own]
    assert jobs.curve(claim.job_id, after=3) == own[1:]


def test_progress_and_curves_can_be_read_while_it_runs_and_a_repeated_step_stands_once(
    jobs: JobStore,
) -> None:
    claim = claimed(jobs)
    jobs.report(claim, stage="train", progress=0.25, report={"skipped": {"tie": 2}})
    for step, loss in ((1, 0.69), (2, 0.6), (2, 0.61), (3, 0.5)):
        jobs.add_point(claim, {"step": step, "loss": loss})
    job = jobs.get(claim.job_id)
    assert (job.stage, job.progress, job.report) == (
        "train",
        0.25,
        {"skipped": {"tie": 2}},
    )
    assert [p["loss"] for p in jobs.curve(claim.job_id)] == [0.69, 0.61, 0.5]
    assert jobs.curve(claim.job_id, after=2) == [{"step": 3, "loss": 0.5}]
    open_job = jobs.open_job()
    assert open_job is not None
    assert open_job.id == claim.job_id
    jobs.finish(claim, version=version_name(1, "d" * 64))
    assert jobs.open_job() is None
    assert jobs.claim(claim.job_id, worker="w", lease_s=1) is None
    assert jobs.recent()[0].version == version_name(1, "d" * 64)
    assert jobs.snapshot_ordinal() == 2


def test_a_jobs_rollouts_come_one_after_another_and_make_room_for_its_draft(registry: Registry, jobs: JobStore) -> None:
    one, other = claimed(jobs), claimed(jobs, code_version="2")
    rounds = [trained(registry, one, letter * 64) for letter in "123"]
    foreign = trained(registry, other, "f" * 64)
    registry.enter_rollout(other, foreign, keep=0)
    for number, each in enumerate(rounds):
        registry.enter_rollout(one, each, keep=1)
        again = registry.enter_rollout(one, each, keep=1)
        there = [policy.version for policy in again.policies.values() if policy.job_id == one.job_id]
        assert sorted(there) == sorted(policy.version for policy in rounds[max(0, number - 1) : number + 1])
    assert registry.policy(rounds[2].version).state is PolicyState.rollout
    assert registry.view().live == BASE_VERSION
    registry.add_draft(one, rounds[2])
    assert registry.policy(rounds[2].version).state is PolicyState.draft, "it may be what the job ends with"
    assert set(registry.view().policies) == {BASE_VERSION, foreign.version, rounds[2].version}
    registry.end_rollouts(other)
    epoch = registry.epoch()
    assert set(registry.end_rollouts(other).policies) == {BASE_VERSION, rounds[2].version}
    assert registry.epoch() == epoch, "nothing is left to take out"
    assert [entry.action for entry in registry.audit()] == ["draft"], "nobody is ever served by a rollout"


def test_who_has_lost_the_lease_enters_no_rollout(registry: Registry, jobs: JobStore) -> None:
    claim = claimed(jobs, lease_s=0)
    policy = trained(registry, claim, "1" * 64)
    assert jobs.claim(claim.job_id, worker="another", lease_s=60) is not None
    with pytest.raises(LeaseLost):
        registry.enter_rollout(claim, policy)
    assert set(registry.view().policies) == {BASE_VERSION}


def make_import(counter: int, digest: str) -> Policy:
    version = version_name(counter, digest)
    return Policy(
        version=version,
        counter=counter,
        state=PolicyState.candidate,
        base_digest="b" * 64,
        adapter=version,
        digest=digest,
        created_at=1.0,
        imported=Imported(directory="mine", files={"adapter_config.json": "c" * 64}, base_name="some/base"),
    )


def test_an_import_is_a_candidate_with_a_counter_of_its_own_and_its_origin_in_the_audit_trail(
    registry: Registry, jobs: JobStore
) -> None:
    trained_counter = registry.reserve(claimed(jobs))
    counter = registry.new_counter()
    assert counter == trained_counter + 1
    policy = make_import(counter, "e" * 64)
    view = registry.enter_import(policy, Why("key k", "trained elsewhere", {"base_name": "some/base"}))
    assert view.policy(policy.version).state is PolicyState.candidate
    assert view.policy(policy.version).history[-1].reason == "trained elsewhere"
    (entry,) = registry.audit()
    assert (entry.action, entry.actor, entry.numbers["base_name"]) == ("import", "key k", "some/base")
    assert registry.enter_import(policy, Why("key k", "again")).epoch == view.epoch
    with pytest.raises(MoveRefused, match=policy.version):
        registry.enter_import(make_import(counter + 1, "e" * 64), Why("key k", "the same bytes"))
