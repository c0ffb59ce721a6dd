"""`/healthz`, `/readyz`, `/metrics`: is it alive, what does it lack, what has it counted."""

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from serve.access.doors import PUBLIC, needs
from serve.answering.turn_log import TurnLog
from serve.ledger_watch import LedgerWatch
from serve.metrics import Metrics
from serve.replicas.fleet import Fleet


def missing(watch: LedgerWatch, fleet: Fleet) -> list[str]:
    """What stands between this gateway and answering everything, one sentence each; empty when nothing does."""
    lacks = []
    if watch.problem is not None:
        lacks.append(f"ledger: {watch.problem}")
    if not fleet.answers:
        lacks.append("engine: it does not answer yet")
    elif watch.view is not None and not fleet.is_loaded(watch.view.policy(watch.view.live)):
        load = fleet.load_of(watch.view.policy(watch.view.live))
        why = f": {load.error}" if load and load.error else ""
        lacks.append(f"policy: the live version {watch.view.live} is not loaded{why}")
    return lacks


def health_routes(watch: LedgerWatch, fleet: Fleet, turn_log: TurnLog, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    @needs(PUBLIC)
    async def healthz() -> dict[str, str]:
        """The process answers; it says nothing about Redis or the engine."""
        return {"status": "ok"}

    @router.get("/readyz")
    @needs(PUBLIC)
    async def readyz() -> Response:
        """200 when chat and votes both work, else 503 and what is missing."""
        lacks = missing(watch, fleet)
        status = {"status": "waiting" if lacks else "ready", "missing": lacks}
        return JSONResponse(status, status_code=503 if lacks else 200)

    @router.get("/metrics")
    @needs(PUBLIC)
    async def page() -> Response:
        metrics.ledger_up.set(0 if watch.problem else 1)
        metrics.turns_queued.set(turn_log.queued_turns)
        for version, count in fleet.in_flight.items():
            metrics.in_flight.labels(version).set(count)
        return Response(metrics.page(), media_type=metrics.content_type)

    return router
