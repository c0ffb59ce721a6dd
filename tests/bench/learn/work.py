"""A cell's job as operators' jobs are: a row in the ledger that the worker finds, trained, gated and held."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from feedback.errors import LedgerUnavailable
from feedback.ids import JobId
from feedback.jobs import Job, JobRequest, JobState
from tests.bench.learn.cells import Cell
from tests.bench.learn.place import Place
from tests.bench.learn.user import Votes
from training.control import code_version
from training.files import read_json, write_json

_LOOK_S = 2.0


def kept_job(place: Place, cell: Cell, body: dict[str, Any], votes: Votes) -> Job | None:
    """The job that was started for the cell, as it stands; None when there is none, or one with other settings.

    Its id is kept in the home: the code may change between two runs, and the job goes on all the same.
    """
    kept = read_json(_path(place.home, cell))
    if kept is None or kept["recipe"] != body or kept["events"] != votes.event_ids:
        return None
    return place.jobs.get(JobId(kept["job"]))


def begun_first(home: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Those with a job first: the worker goes on with it anyway, and its version is judged while the engine has it."""
    return sorted(cells, key=lambda cell: not _path(home, cell).exists())


def start_job(place: Place, cell: Cell, body: dict[str, Any], votes: Votes) -> Job:
    """Make the job, or start a failed one anew; the worker finds it."""
    request = JobRequest(
        recipe=cell.recipe,
        recipe_body=body,
        base_digest=place.base_digest,
        code_version=code_version(),
        event_ids=votes.event_ids,
        pairs_ordinal=votes.ordinal,
        actor="make learn",
        reason=cell.name,
    )
    job = place.jobs.create(request).job
    write_json(_path(place.home, cell), {"job": job.id, "recipe": body, "events": votes.event_ids})
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
        try:
            job = place.jobs.get(job.id)
        except LedgerUnavailable:
            say(f"{cell.name}: the ledger does not answer; waiting for it")
    return job


def _path(home: Path, cell: Cell) -> Path:
    folder = home / "cells"
    folder.mkdir(exist_ok=True)
    return folder / f"{cell.name.replace(':', '-')}.json"
