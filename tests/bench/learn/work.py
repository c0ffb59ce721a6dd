"""A cell's job as operators' jobs are: a row in the ledger that the worker finds, trained, gated and held."""

import time
from collections.abc import Callable
from typing import Any

from feedback.ids import JobId
from feedback.jobs import Job, JobRequest, JobState
from tests.bench.learn.cells import Cell
from tests.bench.learn.place import Place
from tests.bench.learn.user import Votes
from training.control import code_version
from training.files import read_json, write_json

_LOOK_S = 2.0


def job_once(place: Place, cell: Cell, body: dict[str, Any], votes: Votes, *, again: bool) -> Job:
    """The cell's job as it stands, made where there is none. `again` starts a failed one anew.

    Its id is kept in the home: the code may change between two runs, and the job goes on all the same.
    """
    path = place.home / "cells" / f"{cell.name.replace(':', '-')}.json"
    path.parent.mkdir(exist_ok=True)
    kept = read_json(path)
    if kept is not None and kept["recipe"] == body and kept["events"] == votes.event_ids:
        job = place.jobs.get(JobId(kept["job"]))
        if job.state is not JobState.failed or not again:
            return job
    request = JobRequest(
        recipe=cell.recipe,
        recipe_body=body,
        base_digest=place.base_digest,
        code_version=code_version(),
        event_ids=votes.event_ids,  # type: ignore[arg-type]
        pairs_ordinal=votes.ordinal,
        actor="make learn",
        reason=cell.name,
    )
    job = place.jobs.create(request).job
    write_json(path, {"job": job.id, "recipe": body, "events": votes.event_ids})
    return job


def wait_for_job(place: Place, cell: Cell, job: Job, say: Callable[[str], None]) -> Job:
    """The job once it has ended; its stages are told as they come."""
    told = ""
    while job.state not in (JobState.done, JobState.failed):
        place.check()
        now = f"{cell.name}: {job.stage}, {10 * int(10 * job.progress)} %"
        if now != told:
            told = now
            say(now)
        time.sleep(_LOOK_S)
        job = place.jobs.get(job.id)
    return job
