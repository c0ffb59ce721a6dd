"""What a training job is: the request, the row that is kept of it, the claim on it, and the id that the same work gets.

Shapes only. `jobs` keeps them in Redis.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from feedback.ids import EventId, JobId, Version
from feedback.lessons import PAIRS, LearnsFrom
from feedback.schedule import Decision, ScheduleFacts, ScheduleRules, decide

_JSON_FIELDS = ("recipe_body", "report")


class JobState(StrEnum):
    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"


class Announcement(BaseModel):
    """What the training side offers: recipes by name, what each learns from, the schedule's rules, its code version.

    A recipe of which `learns_from` says nothing learns from pairs. `refused` says by name why other recipes are not
    offered; the default one may be among them. `at` is in Unix seconds.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipes: dict[str, dict[str, Any]]
    refused: dict[str, str] = {}
    learns_from: dict[str, LearnsFrom] = {}
    default_recipe: str
    rules: ScheduleRules
    code_version: str
    at: float

    def decide(self, facts: ScheduleFacts) -> Decision:
        """What the rules say of `facts`; nothing starts by itself while the default recipe is refused."""
        if self.default_recipe in self.refused:
            why = self.refused[self.default_recipe]
            return Decision(False, (f"the default recipe {self.default_recipe!r} is refused: {why}",))
        return decide(self.rules, facts)

    def taught_by(self, recipe: str) -> LearnsFrom:
        return self.learns_from.get(recipe, PAIRS)


class Job(BaseModel):
    """One training run. `progress` runs from 0 to 1, times are Unix seconds, `stage` names what it is doing.

    `cancelled`: who wants it to end, and why.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: JobId
    state: JobState
    stage: str = "waiting"
    progress: float = 0.0
    attempt: int = 0
    recipe: str
    recipe_body: dict[str, Any]
    base_digest: str
    code_version: str
    snapshot_digest: str
    n_events: int
    pairs_ordinal: int
    reason: str
    actor: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    heartbeat_at: float | None = None
    lease_until: float = 0.0
    worker: str | None = None
    error: str | None = None
    cancelled: str | None = None
    version: Version | None = None
    report: dict[str, Any] = {}


@dataclass(frozen=True)
class JobRequest:
    """What a job is to learn from and how; its id is the digest of all of it but `actor` and `reason`."""

    recipe: str
    recipe_body: Mapping[str, Any]
    base_digest: str
    code_version: str
    event_ids: Sequence[EventId]
    pairs_ordinal: int
    actor: str
    reason: str


@dataclass(frozen=True)
class Claim:
    """The right to work on a job: only writes that carry the newest token count."""

    job_id: JobId
    token: int
    attempt: int


@dataclass(frozen=True)
class Created:
    job: Job
    created: bool


def snapshot_digest(event_ids: Sequence[EventId]) -> str:
    """Digest (hex) of the list of events a job learns from, in their order."""
    return hashlib.sha256("\n".join(event_ids).encode()).hexdigest()


def job_id(request: JobRequest) -> JobId:
    """The id that the same work always gets: snapshot, base, recipe and code version."""
    parts = (
        snapshot_digest(request.event_ids),
        request.base_digest,
        json.dumps(dict(request.recipe_body), sort_keys=True),
        request.code_version,
    )
    return JobId("job-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12])


def job_of(row: Mapping[str, str]) -> Job:
    """A job from its hash in Redis, where empty stands for absent."""
    fields: dict[str, Any] = {name: value for name, value in row.items() if value != ""}
    for name in _JSON_FIELDS:
        if name in fields:
            fields[name] = json.loads(fields[name])
    return Job.model_validate(fields)
