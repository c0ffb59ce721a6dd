"""Writes whose reply gets lost on the way back from a real Redis: done once, and told so."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pytest

from feedback.connection import Client, connect
from feedback.errors import LeaseLost, StaleRegistry
from feedback.ids import BASE_VERSION, LineName, UserId, Version
from feedback.jobs import JobState, JobStore
from feedback.ledger import Ledger, Speaker
from feedback.policies import Policy, PolicyState, version_name
from feedback.registry import Registry, Why
from tests.feedback.lossy_link import Fault, LossyLink, lossy_link
from tests.feedback.makers import TENANT, comparison, make_turn
from tests.feedback.test_registry_and_jobs import claimed, draft, make_request

LINE = LineName("burnish")
S = PolicyState


@dataclass(frozen=True)
class Report:
    """A gate's report as the gate makes it, with a tuple and an enumerated word."""

    verdict: S
    checks: tuple[dict[str, float], ...]


GATE = asdict(Report(S.candidate, ({"low": 0.1, "high": 0.2},)))


@pytest.fixture
def link(redis_url: str) -> Iterator[LossyLink]:
    with lossy_link(redis_url) as link:
        yield link


@pytest.fixture
def client(link: LossyLink) -> Client:
    return connect(link.url)


@pytest.fixture
def registry(client: Client) -> Registry:
    registry = Registry(client, LINE)
    registry.ensure_base("b" * 64)
    return registry


@pytest.fixture
def jobs(client: Client) -> JobStore:
    return JobStore(client, LINE)


def make_candidate(registry: Registry, jobs: JobStore, number: int) -> Version:
    """A policy of a job of its own, judged fit."""
    claim = claimed(jobs, code_version=str(number))
    counter = registry.reserve(claim)
    version = version_name(counter, f"{number:064x}")
    policy = Policy(version=version, counter=counter, state=S.draft, base_digest="b" * 64, created_at=float(number))
    registry.add_draft(claim, policy)
    registry.judge(claim, version, S.candidate, gate=GATE, metrics={})
    return version


def go_live(registry: Registry, version: Version) -> None:
    registry.promote(version, Why("op", "r"), epoch=registry.epoch())


def test_one_rollback_takes_one_version_back(registry: Registry, jobs: JobStore, link: LossyLink) -> None:
    versions = [make_candidate(registry, jobs, n) for n in (1, 2, 3)]
    for version in versions:
        go_live(registry, version)
    link.fault = Fault()
    view = registry.rollback(Why("op", "once"))
    assert link.fault is None
    assert view.lives == (BASE_VERSION, *versions[:2])
    assert [entry.action for entry in registry.audit()].count("rollback") == 1


def test_one_rollback_takes_one_version_back_though_another_write_came_before_it_was_sent_again(
    registry: Registry, jobs: JobStore, link: LossyLink, redis_url: str
) -> None:
    versions = [make_candidate(registry, jobs, n) for n in (1, 2)]
    for version in versions:
        go_live(registry, version)
    spare = make_candidate(registry, jobs, 3)
    other = Registry(connect(redis_url), LINE)
    link.fault = Fault(after=lambda: other.withdraw(spare, Why("op", "spare")))
    view = registry.rollback(Why("op", "once"))
    assert view.lives == (BASE_VERSION, versions[0])
    assert view.policies[spare].state is S.withdrawn


def test_of_two_rollbacks_of_one_version_at_once_one_is_told_to_look_again(
    registry: Registry, jobs: JobStore, link: LossyLink, redis_url: str
) -> None:
    versions = [make_candidate(registry, jobs, n) for n in (1, 2)]
    for version in versions:
        go_live(registry, version)
    other = Registry(connect(redis_url), LINE)
    link.fault = Fault(lose_reply=False, before=lambda: other.rollback(Why("quicker", "r")))
    with pytest.raises(StaleRegistry, match="look again"):
        registry.rollback(Why("slower", "r"))
    assert registry.view().lives == (BASE_VERSION, versions[0])


def test_a_draft_is_judged_promoted_and_withdrawn(registry: Registry, jobs: JobStore, link: LossyLink) -> None:
    claim = claimed(jobs)
    version = draft(registry, claim).version
    link.fault = Fault()
    assert registry.judge(claim, version, S.candidate, gate=GATE, metrics={}).policy(version).state is S.candidate
    link.fault = Fault()
    assert registry.promote(version, Why("op", "r"), epoch=registry.epoch()).live == version
    link.fault = Fault()
    view = registry.withdraw(version, Why("op", "r"))
    assert (view.live, view.policies[version].state) == (BASE_VERSION, S.withdrawn)
    assert [entry.action for entry in registry.audit()] == ["withdraw", "promote", "candidate", "draft"]


def test_a_job_is_made_claimed_and_finished(jobs: JobStore, link: LossyLink) -> None:
    link.fault = Fault()
    made = jobs.create(make_request())
    assert made.created
    link.fault = Fault()
    claim = jobs.claim(made.job.id, worker="w", lease_s=60)
    assert claim is not None
    assert jobs.get(made.job.id).attempt == claim.attempt == 1
    link.fault = Fault()
    jobs.finish(claim, version=None)
    assert jobs.get(made.job.id).state is JobState.done


def test_a_failed_attempt_and_a_job_given_back_are_counted_once(jobs: JobStore, link: LossyLink) -> None:
    claim = claimed(jobs)
    link.fault = Fault()
    jobs.fail(claim, "no luck", retry=True)
    again = jobs.claim(claim.job_id, worker="w", lease_s=60)
    assert again is not None
    link.fault = Fault()
    jobs.release(again)
    third = jobs.claim(claim.job_id, worker="w", lease_s=60)
    assert third is not None
    assert (again.attempt, third.attempt) == (2, 2)
    with pytest.raises(LeaseLost):
        jobs.heartbeat(again, 60)


def test_a_job_that_another_worker_took_up_meanwhile_stays_with_it(
    jobs: JobStore, link: LossyLink, redis_url: str
) -> None:
    claim = claimed(jobs)
    other = JobStore(connect(redis_url), LINE)
    link.fault = Fault(after=lambda: other.claim(claim.job_id, worker="w2", lease_s=60))
    jobs.fail(claim, "no luck", retry=True)
    job = jobs.get(claim.job_id)
    assert (job.state, job.worker, job.attempt) == (JobState.running, "w2", 2)


def test_a_vote_is_kept_once_and_is_new_to_its_sender(client: Client, link: LossyLink) -> None:
    ledger = Ledger(client, LINE)
    first, second = make_turn(), make_turn(answer="Another.")
    ledger.append_turns([first, second])
    link.fault = Fault()
    appended = ledger.append_event(
        comparison(first.id, second.id), Speaker(TENANT, UserId("ann")), idempotency_key="once"
    )
    assert appended.created
    assert list(ledger.logged_events()) == [appended.event]
