"""Starting a job: what there is to train on, and the request to train on it. Reads the ledger and writes nothing."""

import time
from dataclasses import dataclass

from feedback.errors import NotEnoughVotes
from feedback.job_rows import Announcement, JobRequest
from feedback.jobs import JobStore
from feedback.ledger import Ledger
from feedback.lessons import Counted, LearnsFrom
from feedback.schedule import ScheduleFacts

_MORE: dict[Counted, str] = {
    "pairs": "compare more answers",
    "thumbs": "rate more answers",
    "demonstrations": "correct more answers",
}


@dataclass(frozen=True)
class Order:
    """One training asked for: the recipe by its announced name, on which base, by whom and why."""

    recipe: str
    base_digest: str
    actor: str
    reason: str


def look(ledger: Ledger, jobs: JobStore, learns_from: LearnsFrom) -> ScheduleFacts:
    """What the schedule decides by, for a recipe that learns from that."""
    return ScheduleFacts(
        now=time.time(),
        counted=learns_from.counted,
        new=learns_from.total(ledger.lessons(learns_from.worth, after=jobs.snapshot_ordinal())),
        total=learns_from.total(ledger.lessons(learns_from.worth)),
        last_vote_at=ledger.last_vote_at(),
        job_open=jobs.open_job() is not None,
    )


def request_of(order: Order, announced: Announcement, ledger: Ledger) -> JobRequest:
    """A job on all events that stand now. NotEnoughVotes when its recipe would learn from fewer than the rules say."""
    learns_from, least = announced.taught_by(order.recipe), announced.rules.min_pairs
    there = learns_from.total(ledger.lessons(learns_from.worth))
    if there < least:
        counted = learns_from.counted
        raise NotEnoughVotes(f"{there} {counted}, {least} are the least for {order.recipe}: {_MORE[counted]}")
    events = ledger.standing_events()
    return JobRequest(
        recipe=order.recipe,
        recipe_body=announced.recipes[order.recipe],
        base_digest=order.base_digest,
        code_version=announced.code_version,
        event_ids=[event.id for event in events],
        pairs_ordinal=max((event.ordinal for event in events), default=0),
        actor=order.actor,
        reason=order.reason,
    )
