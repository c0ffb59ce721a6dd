"""`/operator/jobs`, `/operator/schedule`, `/v1/progress`: training jobs, and what the next one waits for.

A job made here is a row in the ledger; the workers find it there.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from feedback.access_keys import Scope
from feedback.ids import JobId
from feedback.jobs import Announcement, Job, JobRequest, JobStore
from feedback.ledger import Ledger
from feedback.lessons import PAIRS
from feedback.schedule import ScheduleFacts, ScheduleRules, decide
from feedback.starting import Order, look, request_of
from serve.access.doors import caller_of, needs
from serve.errors import BadRequest, Unavailable


class Start(BaseModel):
    """Which recipe to train by (the announced default when left out), and why now."""

    model_config = ConfigDict(extra="forbid")

    recipe: str | None = None
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class Cancel(BaseModel):
    """Why a job is to end; it is kept with the job."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Training:
    """What the ledger says about training; no I/O but the ledger's."""

    ledger: Ledger
    jobs: JobStore
    base_digest: str

    def facts(self, announced: Announcement | None) -> ScheduleFacts:
        """What the schedule decides by: the votes that the announced default recipe learns from."""
        taught = announced.taught_by(announced.default_recipe) if announced else PAIRS
        return look(self.ledger, self.jobs, taught)

    def votes(self, announced: Announcement) -> dict[str, Any]:
        """For each recipe what it learns from, and how much of that there is."""
        recipes = {name: announced.taught_by(name) for name in sorted(announced.recipes)}
        standing = self.ledger.lessons(lesson for taught in recipes.values() for lesson in taught.worth)
        return {
            name: {"learns_from": taught.counted, "total": taught.total(standing)} for name, taught in recipes.items()
        }

    def schedule(self) -> dict[str, Any]:
        """What the next training waits for, and which recipes could start now."""
        announced, running = self.jobs.announcement(), self.jobs.open_job()
        facts = self.facts(announced)
        rules = announced.rules if announced else ScheduleRules()
        decision = announced.decide(facts) if announced else decide(rules, facts)
        reasons = list(decision.reasons) if announced else ["no worker has announced itself", *decision.reasons]
        return {
            "train": decision.train and announced is not None,
            "reasons": reasons,
            "learns_from": facts.counted,
            "new": facts.new,
            "needed": rules.min_new_pairs,
            "total": facts.total,
            "least": rules.min_pairs,
            "people": self.ledger.vote_counts().people,
            "running": running and _job_json(running),
            "recipes": sorted(announced.recipes) if announced else [],
            "refused": announced.refused if announced else {},
            "votes": self.votes(announced) if announced else {},
            "default_recipe": announced.default_recipe if announced else None,
            "announced_at": announced and announced.at,
        }

    def request(self, start: Start, announced: Announcement, actor: str) -> JobRequest:
        """A job on all events that stand now. NotEnoughVotes, or BadRequest for an unknown recipe."""
        recipe = start.recipe or announced.default_recipe
        if why := announced.refused.get(recipe):
            raise BadRequest(f"recipe {recipe!r} is refused: {why}", param="recipe", code="refused_recipe")
        if recipe not in announced.recipes:
            known = ", ".join(sorted(announced.recipes))
            raise BadRequest(f"there is no recipe {recipe!r}; known: {known}", param="recipe", code="unknown_recipe")
        return request_of(Order(recipe, self.base_digest, actor, start.reason), announced, self.ledger)


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

    @router.post("/operator/jobs/{job_id}/cancel")
    @needs(Scope.operator)
    def cancel_job(request: Request, job_id: str, cancel: Cancel) -> dict[str, Any]:
        """A job that nobody has worked on has failed then; any other is ended by its worker."""
        actor = f"key {caller_of(request).key_id}"
        return _job_json(jobs.cancel(JobId(job_id), actor=actor, reason=cancel.reason))

    @router.get("/operator/schedule")
    @needs(Scope.operator)
    def schedule() -> dict[str, Any]:
        return training.schedule()

    @router.get("/v1/progress")
    @needs(Scope.feedback)
    def progress() -> dict[str, Any]:
        """How many new votes there are of those that the next training learns from, and how many start it."""
        announced = jobs.announcement()
        facts = training.facts(announced)
        rules = announced.rules if announced else ScheduleRules()
        told = {"learns_from": facts.counted, "new": facts.new, "needed": rules.min_new_pairs}
        return {**told, "training": facts.job_open}

    return router


def _job_json(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")
