"""A claimed job on a running gateway, for what samples from a real engine without a worker."""

import threading
from pathlib import Path

from feedback.connection import connect
from feedback.jobs import JobRequest, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from tests.services import Gateway
from tests.training.workplace import LINE
from training.sampling.gateway import Gateway as GatewayClient
from training.settings import Settings
from training.worker.attempt import Attempt


def make_attempt(gateway: Gateway, model: Path, recipe: str, reason: str) -> Attempt:
    """A new job of no votes in the gateway's ledger, held for as long as any test or benchmark takes."""
    client = connect(gateway.redis_url)
    jobs = JobStore(client, LINE)
    digest = (model / "digest.txt").read_text(encoding="utf-8").strip()
    job = jobs.create(JobRequest(recipe, {}, digest, "test", [], 0, "test", reason)).job
    claim = jobs.claim(job.id, worker="test", lease_s=36_000)
    assert claim is not None
    return Attempt(
        settings=Settings().model_copy(update={"home": gateway.home}),
        claim=claim,
        job=job,
        jobs=jobs,
        ledger=Ledger(client, LINE),
        registry=Registry(client, LINE),
        gateway=GatewayClient(gateway.url, gateway.key("worker"), LINE),
        stop=threading.Event(),
    )
