"""Training jobs: rows in Redis that are the truth, held by one worker at a time under a lease with a fencing token."""

import json
import time
from collections.abc import Mapping
from typing import Any

from feedback.connection import Client, lua, translated
from feedback.errors import LeaseLost, MoveRefused, UnknownJob
from feedback.ids import EventId, JobId, LineName, Version, new_nonce
from feedback.job_rows import Announcement, Claim, Created, Job, JobRequest, JobState, job_id, job_of, snapshot_digest
from feedback.keyspace import Keyspace

__all__ = ["Announcement", "Claim", "Created", "Job", "JobRequest", "JobState", "JobStore"]


class JobStore:
    """The jobs of one line. LedgerUnavailable when Redis does not answer, LeaseLost on an outdated claim."""

    def __init__(self, client: Client, line: LineName) -> None:
        self._client = client
        self._keys = Keyspace(line)
        self._create = lua(client, "create_job")
        self._claim = lua(client, "claim_job")
        self._guarded = lua(client, "guarded_write")
        self._cancel = lua(client, "cancel_job")

    def announce(self, announcement: Announcement) -> None:
        with translated():
            self._client.set(self._keys.announcement, announcement.model_dump_json())

    def announcement(self) -> Announcement | None:
        """What the training side last offered; None when none has ever started."""
        with translated():
            row = self._client.get(self._keys.announcement)
        return Announcement.model_validate_json(row) if row else None

    def create(self, request: JobRequest) -> Created:
        """Makes the job, or finds the one that does the same work already. A failed one waits anew.

        MoveRefused while that one is being cancelled.
        """
        new_id = job_id(request)
        fields = {
            "id": new_id,
            "recipe": request.recipe,
            "recipe_body": json.dumps(dict(request.recipe_body)),
            "base_digest": request.base_digest,
            "code_version": request.code_version,
            "snapshot_digest": snapshot_digest(request.event_ids),
            "n_events": str(len(request.event_ids)),
            "pairs_ordinal": str(request.pairs_ordinal),
            "reason": request.reason,
            "actor": request.actor,
            "created_at": f"{time.time():.3f}",
            "stage": "waiting",
            "progress": "0",
        }
        keys = self._keys
        with translated():
            made = self._create(
                keys=[
                    keys.job(new_id),
                    keys.snapshot(new_id),
                    keys.jobs,
                    keys.snapshot_ordinal,
                ],
                args=[
                    new_id,
                    fields["created_at"],
                    json.dumps(list(request.event_ids)),
                    str(request.pairs_ordinal),
                    new_nonce(),
                    *_flat(fields),
                ],
            )
        if made == -1:
            raise MoveRefused(f"job {new_id} is being cancelled; start it again once it has ended")
        return Created(self.get(new_id), bool(made))

    def claim(self, job: JobId, *, worker: str, lease_s: float) -> Claim | None:
        """Takes a waiting job for `lease_s` seconds; None when another holds it or it has ended."""
        with translated():
            got = self._claim(
                keys=[self._keys.job(job), self._keys.fence],
                args=[worker, str(lease_s), new_nonce()],
            )
        return Claim(job, int(got[0]), int(got[1])) if got else None

    def heartbeat(self, claim: Claim, lease_s: float) -> None:
        """Extends the lease to `lease_s` seconds from now."""
        self._write(claim, {}, lease_s=lease_s)

    def release(self, claim: Claim) -> None:
        """Gives an unfinished job back, to be taken up where it stopped; the attempt does not count."""
        self._write(
            claim,
            {"state": JobState.queued, "lease_until": "0", "token": ""},
            attempts_back=1,
            ending="released",
        )

    def report(
        self,
        claim: Claim,
        *,
        stage: str | None = None,
        progress: float | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Says how far the job is. `report` takes the place of the former one."""
        fields: dict[str, str] = {}
        if stage is not None:
            fields["stage"] = stage
        if progress is not None:
            fields["progress"] = f"{progress:.4f}"
        if report is not None:
            fields["report"] = json.dumps(dict(report))
        self._write(claim, fields)

    def add_point(self, claim: Claim, point: Mapping[str, float | str]) -> None:
        """Appends one point (its `step` and the values at it) to the job's curves.

        The steps of each `part` that it names are counted apart.
        """
        self._write(claim, {}, point=json.dumps(dict(point)))

    def curve(self, job: JobId, after: int = 0) -> list[dict[str, Any]]:
        """The curve points from index `after` on, part by part in the order they were begun, by rising step.

        A step that was done again after a restart stands once.
        """
        with translated():
            rows = self._client.lrange(self._keys.curve(job), 0, -1)
        parts: dict[str | None, dict[int, dict[str, Any]]] = {}
        for point in map(json.loads, rows):
            parts.setdefault(point.get("part"), {})[point["step"]] = point
        return [steps[step] for steps in parts.values() for step in sorted(steps)][after:]

    def finish(self, claim: Claim, *, version: Version | None) -> None:
        """Ends the job well. Saying so again under the same claim changes nothing."""
        fields = {
            "state": JobState.done,
            "stage": "done",
            "progress": "1",
            "finished_at": f"{time.time():.3f}",
        }
        self._write(claim, fields | ({"version": version} if version else {}), ending="finished")

    def fail(self, claim: Claim, error: str, *, retry: bool) -> None:
        """Ends the attempt badly: the job waits for another one, or has failed for good. Once for each claim."""
        ended = {
            "state": JobState.failed,
            "stage": "failed",
            "finished_at": f"{time.time():.3f}",
        }
        waiting = {"state": JobState.queued, "stage": "waiting to try again"}
        self._write(
            claim,
            {"error": error, "lease_until": "0", "token": ""} | (waiting if retry else ended),
            ending="failed",
        )

    def cancel(self, job: JobId, *, actor: str, reason: str) -> Job:
        """Has a job end: one that nobody has worked on at once, any other by its worker.

        UnknownJob when there is none, MoveRefused when it has ended already. It may be started again then.
        """
        with translated():
            state = self._cancel(keys=[self._keys.job(job)], args=[f"cancelled by {actor}: {reason}", new_nonce()])
        found = self.get(job)
        if state in (JobState.done, JobState.failed):
            raise MoveRefused(f"job {job} is {found.state}; only one that waits or runs can be cancelled")
        return found

    def get(self, job: JobId) -> Job:
        """The job. UnknownJob when there is none."""
        with translated():
            row = self._client.hgetall(self._keys.job(job))
        if not row:
            raise UnknownJob(f"there is no job {job!r}; see the list of jobs")
        return job_of(row)

    def recent(self, limit: int = 50) -> list[Job]:
        """The newest jobs, newest first."""
        with translated():
            ids = self._client.zrevrange(self._keys.jobs, 0, limit - 1)
            pipe = self._client.pipeline(transaction=False)
            for each in ids:
                pipe.hgetall(self._keys.job(JobId(each)))
            rows = pipe.execute()
        return [job_of(row) for row in rows if row]

    def unclaimed(self, now: float) -> list[JobId]:
        """The jobs that nobody works on: waiting, or running under a lease that ran out; oldest first."""
        waiting = [
            job
            for job in self.recent()
            if job.state is JobState.queued or (job.state is JobState.running and job.lease_until <= now)
        ]
        return [job.id for job in reversed(waiting)]

    def open_job(self) -> Job | None:
        """The newest job that waits or runs."""
        return next(
            (job for job in self.recent() if job.state in (JobState.queued, JobState.running)),
            None,
        )

    def snapshot(self, job: JobId) -> list[EventId]:
        """The events a job learns from, oldest first."""
        with translated():
            row = self._client.get(self._keys.snapshot(job))
        if row is None:
            raise UnknownJob(f"there is no snapshot of job {job!r}")
        return [EventId(each) for each in json.loads(row)]

    def snapshot_ordinal(self) -> int:
        """The ordinal up to which the newest job's snapshot reaches; 0 before the first job."""
        with translated():
            return int(self._client.get(self._keys.snapshot_ordinal) or 0)

    def _write(
        self,
        claim: Claim,
        fields: Mapping[str, str],
        *,
        point: str = "",
        lease_s: float | None = None,
        attempts_back: int = 0,
        ending: str = "",
    ) -> None:
        with translated():
            held = self._guarded(
                keys=[self._keys.job(claim.job_id), self._keys.curve(claim.job_id)],
                args=[
                    str(claim.token),
                    point,
                    "" if lease_s is None else str(lease_s),
                    str(attempts_back),
                    ending,
                    *_flat(fields),
                ],
            )
        if not held:
            raise LeaseLost(f"job {claim.job_id} is no longer held under token {claim.token}; nothing was written")


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [str(part) for pair in fields.items() for part in pair]
