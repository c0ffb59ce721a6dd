"""Rows for the status page's tests, written through the ledger's own classes: jobs with curves, judged versions."""

import math
import time
from dataclasses import dataclass
from typing import Any

from feedback.connection import Client
from feedback.ids import BASE_VERSION, EventId, LineName, Version
from feedback.jobs import Announcement, Claim, JobRequest, JobStore
from feedback.policies import Policy, PolicyState
from feedback.registry import Registry, Why
from feedback.schedule import ScheduleRules

LINE = LineName("burnish")


@dataclass(frozen=True)
class Rows:
    """Writes to one line's registry and jobs."""

    jobs: JobStore
    registry: Registry
    base_digest: str

    def announce(self) -> None:
        self.jobs.announce(
            Announcement(
                recipes={"dpo": {"algorithm": "dpo"}, "kto": {"algorithm": "kto"}},
                default_recipe="dpo",
                rules=ScheduleRules(),
                code_version="test",
                at=time.time(),
            )
        )

    def job(self, number: int, reason: str = "enough new pairs") -> Claim:
        """A claimed job; `number` tells one from another."""
        request = JobRequest(
            recipe="dpo",
            recipe_body={"algorithm": "dpo"},
            base_digest=self.base_digest,
            code_version="test",
            event_ids=[EventId(f"ev-{number}-{i}") for i in range(60 + number)],
            pairs_ordinal=0,
            actor="schedule",
            reason=reason,
        )
        claim = self.jobs.claim(self.jobs.create(request).job.id, worker="test", lease_s=3600)
        assert claim is not None
        return claim

    def train(self, claim: Claim, steps: int, of: int = 60) -> None:
        """Curve points like those of a job that goes well."""
        self.jobs.report(claim, stage="training", progress=steps / of)
        for step in range(1, steps + 1):
            done = 1 - math.exp(-step / 22)
            wave = 0.03 * math.sin(step * 1.9) + 0.02 * math.sin(step * 0.7)
            self.jobs.add_point(claim, _point(step, done, wave if step > 1 else 0.0))

    def draft(self, claim: Claim, digest: str) -> Version:
        counter = self.registry.reserve(claim)
        version = Version(f"v{counter:04d}-{digest}")
        policy = Policy(
            version=version,
            counter=counter,
            state=PolicyState.draft,
            parent=BASE_VERSION,
            base_digest=self.base_digest,
            adapter=version,
            digest=digest * 5,
            rank=16,
            job_id=claim.job_id,
            created_at=time.time(),
        )
        self.registry.add_draft(claim, policy)
        return version

    def judge(self, claim: Claim, version: Version, verdict: str) -> None:
        state = PolicyState.rejected if verdict == "fail" else PolicyState.candidate
        self.registry.judge(claim, version, state, gate=gate_report(verdict), metrics={})
        self.jobs.finish(claim, version=version)

    def go_live(self, version: Version, reason: str) -> None:
        self.registry.promote(version, Why("gate", reason), epoch=self.registry.epoch())


def rows(client: Client, base_digest: str) -> Rows:
    return Rows(JobStore(client, LINE), Registry(client, LINE), base_digest)


def gate_report(verdict: str) -> dict[str, Any]:
    """A report in the shape the gate writes, with that verdict."""
    votes = {"pass": (0.79, 0.62, 0.91, "pass"), "inconclusive": (0.6, 0.41, 0.77, "inconclusive")}
    value, low, high, word = votes.get(verdict, (0.55, 0.33, 0.75, "inconclusive"))
    loss = (0.46, 0.39, 0.53, "fail") if verdict == "fail" else (0.041, 0.012, 0.071, "pass")
    checks = [
        _check("naturalness", "the base's loss on the draft's answers, above that on the live policy's (nats a token)",
               loss, -0.1, 0.1),
        _check("kl", "distance from the base (KL, nats a token)", (0.11, 0.09, 0.13, "pass"), None, 0.5),
        _check("repeats", "more repeated 4-grams than the live one (share)", (0.004, -0.01, 0.02, "pass"), None, 0.05),
        _check("length", "mean answer length, as a ratio to the live policy's", (1.03, 0.94, 1.12, "pass"), 0.7, 1.4),
        _check("votes", "held-out votes that the draft agrees with more than the live policy (share)",
               (value, low, high, word), 0.5, None),
    ]  # fmt: skip
    summary = {"pass": "no harm found; better than the live policy", "fail": "refused: naturalness is out of bounds"}
    return {
        "verdict": verdict,
        "summary": summary.get(verdict, "no harm found; too few votes to tell"),
        "n_prompts": 64,
        "checks": checks,
    }


def _check(
    name: str, title: str, found: tuple[float, float, float, str], least: float | None, most: float | None
) -> dict[str, Any]:
    value, low, high, verdict = found
    words = f"{value:+.3f} [{low:+.3f}, {high:+.3f}] is {'out of' if verdict == 'fail' else 'within'} bounds"
    return {
        "name": name, "title": title, "value": value, "low": low, "high": high,
        "least": least, "most": most, "verdict": verdict, "words": words,
    }  # fmt: skip


def _point(step: int, done: float, wave: float) -> dict[str, float]:
    return {
        "step": step,
        "loss": math.log(2) - 0.34 * done + wave,
        "margin": 1.9 * done - 2 * wave,
        "chosen_logprob": -61 + 2.1 * done + 6 * wave,
        "rejected_logprob": -63 - 5.6 * done + 5 * wave,
        "accuracy": min(1.0, 0.5 + 0.42 * done - wave),
    }
