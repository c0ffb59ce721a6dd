"""`/operator/jobs`, `/operator/schedule`, `/v1/progress`: training jobs, and what the next one waits for.

A job made here is a row in the ledger; the workers find it there.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from feedback.access_keys import Scope
from feedback.errors import NotEnoughPairs
from feedback.ids import JobId
from feedback.jobs import Announcement, Job, JobRequest, JobStore
from feedback.ledger import Ledger
from feedback.schedule import ScheduleFacts, ScheduleRules, decide
from serve.access import caller_of, needs
from serve.errors import BadRequest, Unavailable


class Start(BaseModel):
    """Which recipe to train by (the announced default when left out), and why now."""

    model_config = ConfigDict(extra="forbid")

    recipe: str | None = None
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Training:
    """What the ledger says about training; no I/O but the ledger's."""

    ledger: Ledger
    jobs: JobStore
    base_digest: str

    def facts(self) -> ScheduleFacts:
        return ScheduleFacts(
            now=time.time(),
            new_pairs=self.ledger.pairs_since(self.jobs.snapshot_ordinal()),
            total_pairs=self.ledger.vote_counts().pairs,
            last_vote_at=self.ledger.last_vote_at(),
            job_open=self.jobs.open_job() is not None,
        )

    def request(self, start: Start, announced: Announcement, actor: str) -> JobRequest:
        """A job on all events that stand now. NotEnoughPairs, or BadRequest for an unknown recipe."""
        recipe = start.recipe or announced.default_recipe
        if recipe not in announced.recipes:
            known = ", ".join(sorted(announced.recipes))
            raise BadRequest(f"there is no recipe {recipe!r}; known: {known}", param="recipe", code="unknown_recipe")
        pairs = self.ledger.vote_counts().pairs
        if pairs < announced.rules.min_pairs:
            least = announced.rules.min_pairs
            raise NotEnoughPairs(f"there are {pairs} pairs; a job needs {least}: compare more answers")
        events = self.ledger.standing_events()
        return JobRequest(
            recipe=recipe,
            recipe_body=announced.recipes[recipe],
            base_digest=self.base_digest,
            code_version=announced.code_version,
            event_ids=[event.id for event in events],
            pairs_ordinal=max(event.ordinal for event in events),
            actor=actor,
            reason=start.reason,
        )


def job_routes(training: Training) -> APIRouter:
    router = APIRouter(tags=["training"])
    jobs = training.jobs

    @router.get("/operator/jobs")
    @needs(Scope.operator)
    def list_jobs(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
        return {"jobs": [_job_json(job) for job in jobs.recent(limit)]}

    @router.get("/operator/jobs/{job_id}")
    @needs(Scope.operator)
    def get_job(job_id: str, after: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        """The job and its curve from point `after` on."""
        job = jobs.get(JobId(job_id))
        return {**_job_json(job), "curve": jobs.curve(job.id, after)}

    @router.post("/operator/jobs", status_code=201)
    @needs(Scope.operator)
    def start_job(request: Request, start: Start) -> Response:
        """A new job, or (200) the one that does the same work already."""
        announced = jobs.announcement()
        if announced is None:
            raise Unavailable("no worker has announced its recipes yet; start one", code="no_worker")
        made = jobs.create(training.request(start, announced, f"key {caller_of(request).key_id}"))
        content = orjson.dumps(_job_json(made.job))
        return Response(content, status_code=201 if made.created else 200, media_type="application/json")

    @router.get("/operator/schedule")
    @needs(Scope.operator)
    def schedule() -> dict[str, Any]:
        announced, facts, running = jobs.announcement(), training.facts(), jobs.open_job()
        rules = announced.rules if announced else ScheduleRules()
        decision = decide(rules, facts)
        reasons = list(decision.reasons) if announced else ["no worker has announced itself", *decision.reasons]
        return {
            "train": decision.train and announced is not None,
            "reasons": reasons,
            "new_pairs": facts.new_pairs,
            "needed": rules.min_new_pairs,
            "total_pairs": facts.total_pairs,
            "people": training.ledger.vote_counts().people,
            "min_pairs": rules.min_pairs,
            "running": running and _job_json(running),
            "recipes": sorted(announced.recipes) if announced else [],
            "default_recipe": announced.default_recipe if announced else None,
            "announced_at": announced and announced.at,
        }

    @router.get("/v1/progress")
    @needs(Scope.feedback)
    def progress() -> dict[str, Any]:
        """How many new pairs there are and how many start the next training."""
        announced, facts = jobs.announcement(), training.facts()
        rules = announced.rules if announced else ScheduleRules()
        return {"new_pairs": facts.new_pairs, "needed": rules.min_new_pairs, "training": facts.job_open}

    return router


def _job_json(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")
