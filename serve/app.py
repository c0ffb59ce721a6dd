"""The gateway's composition root: `python -m serve.app` builds every part, wires them, and listens.

Starts in any order with its neighbours: it listens at once and /readyz tells what it still waits for.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from feedback.access_keys import KeyStore, Scope
from feedback.connection import check_durability, connect
from feedback.duels import DuelRows
from feedback.ids import LineName, new_nonce
from feedback.jobs import JobStore
from feedback.keyspace import Keyspace
from feedback.lease import Lease
from feedback.ledger import Ledger
from feedback.link import Link
from feedback.policies import RegistryView
from feedback.quota import QuotaLedger
from feedback.registry import Registry
from feedback.traffic_rows import TrafficRows
from feedback.turn_rows import TurnWriter
from serve.access.body_limit import BodyLimit
from serve.access.doors import KeyRing, hang_doors, needs
from serve.access.http_protocol import BoundedHttp
from serve.access.key_files import adopt_key_files, make_key_files
from serve.access.request_id import RequestId
from serve.adapters.adapter_files import base_shapes
from serve.adapters.import_check import Limits
from serve.adapters.imports import Importer, ImportRules
from serve.adapters.try_out import EngineTryOut
from serve.answering.chat import ChatParts, Completions
from serve.answering.stopping import GracefulServer
from serve.answering.turn_log import TurnLog
from serve.error_pages import install_error_pages
from serve.health import health_routes
from serve.job_routes import Training, job_routes
from serve.ledger_watch import LedgerWatch
from serve.limits.limiter import Limiter
from serve.limits.quotas import Quotas
from serve.metrics import Metrics
from serve.model_routes import model_routes
from serve.openapi import Bounds, openapi_route
from serve.policies.canary_routes import canary_routes
from serve.policies.import_routes import import_routes
from serve.policies.judge import Judge, Trials
from serve.policies.policy_routes import policy_routes
from serve.policies.promotion import Promotion
from serve.policies.traffic_meter import TrafficMeter
from serve.replicas.engine import Engine
from serve.replicas.fleet import Fleet, Replica
from serve.replicas.shelf import Shelf
from serve.replicas.swap import Swap, SwapRules
from serve.requests.chat_request import Kind
from serve.settings import Settings
from serve.turn_routes import turn_routes
from serve.vote_routes import vote_routes

log = logging.getLogger(__name__)
_FLUSH_S = 5.0
_JUDGE_LEASE_S = 10


@dataclass(frozen=True)
class Parts:
    """Everything the gateway is made of, wired but not running."""

    settings: Settings
    base_digest: str
    ledger: Ledger
    registry: Registry
    keys: KeyStore
    jobs: JobStore
    ring: KeyRing
    metrics: Metrics
    fleet: Fleet
    watch: LedgerWatch
    importer: Importer
    turn_log: TurnLog
    trials: Trials
    meter: TrafficMeter
    judge: Judge
    promotion: Promotion
    limiter: Limiter


def build_parts(settings: Settings) -> Parts:
    """Nothing is connected before the app's lifespan begins."""
    line = LineName(settings.line.name)
    redis = connect(settings.redis_url)
    ledger, registry, keys = Ledger(redis, line), Registry(redis, line), KeyStore(redis)
    base_digest = (settings.model_path / "digest.txt").read_text(encoding="utf-8").strip()
    metrics, ring, meter = Metrics(), KeyRing(), TrafficMeter()

    def prepare() -> None:
        for finding in check_durability(redis):
            log.warning("accepted votes may be lost when this Redis is killed: %s", finding)
        registry.ensure_base(base_digest)
        ledger.fill_lessons()
        adopt_key_files(settings.home, keys)
        importer.clear_up()

    watch = LedgerWatch(registry, keys, ring, settings.gateway.poll_s, prepare)
    fleet = _fleet(settings, metrics, lambda: watch.view)
    importer = Importer(_import_rules(settings, base_digest), registry, EngineTryOut(fleet), watch.accept)

    def changed(view: RegistryView) -> None:
        metrics.set_live(view.live)
        meter.follow(view.canary.version if view.canary else None)
        fleet.look_again()

    turn_log = TurnLog(
        TurnWriter(Link(settings.redis_url), line),
        capacity=settings.gateway.turn_queue,
        patience_s=settings.gateway.turn_patience_s,
        dropped=metrics.turns_dropped.inc,
    )
    promotion = Promotion(registry, watch, fleet, metrics)
    trials = Trials(DuelRows(redis, line, ledger), TrafficRows(redis, line))
    gateway = new_nonce()
    lease = Lease(redis, Keyspace(line).judge, holder=gateway, ttl_s=_JUDGE_LEASE_S)
    quotas = Quotas(QuotaLedger(Link(settings.redis_url)), settings.gateway.quota_patience_s, metrics.limits_alone.set)
    limiter = Limiter(
        quotas,
        fleet.count_tokens,
        capacity=settings.engine.max_requests * len(fleet.replicas),
        refused=lambda why: metrics.refused.labels(why).inc(),
    )
    watch.changed = changed
    watch.back = turn_log.try_again
    return Parts(
        settings=settings,
        base_digest=base_digest,
        ledger=ledger,
        registry=registry,
        keys=keys,
        jobs=JobStore(redis, line),
        ring=ring,
        metrics=metrics,
        fleet=fleet,
        watch=watch,
        importer=importer,
        turn_log=turn_log,
        trials=trials,
        meter=meter,
        judge=Judge(gateway, watch, trials, meter, lease, promotion),
        promotion=promotion,
        limiter=limiter,
    )


def build_app(parts: Parts) -> FastAPI:
    """The routes, each behind its door, and the lifespan that starts and stops the parts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.turn_log.start()
        loops = [*parts.fleet.open(), asyncio.create_task(parts.watch.run()), asyncio.create_task(parts.judge.run())]
        yield
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await parts.limiter.quotas.close(_FLUSH_S)
        await parts.turn_log.close(_FLUSH_S)
        await parts.fleet.close()

    app = FastAPI(title="Burnish", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.router.routes += _completion_routes(parts)
    for router in (
        model_routes(parts.watch, parts.fleet),
        vote_routes(parts.ledger, parts.turn_log, parts.metrics),
        turn_routes(parts.ledger, parts.trials.duels),
        policy_routes(parts.watch, parts.fleet, parts.promotion, parts.registry),
        import_routes(parts.importer),
        canary_routes(parts.watch, parts.trials, parts.promotion, parts.settings.canary),
        job_routes(Training(parts.ledger, parts.jobs, parts.base_digest)),
        health_routes(parts.watch, parts.fleet, parts.turn_log, parts.metrics),
    ):
        app.include_router(router)
    app.router.routes.append(openapi_route(lambda: app.routes, lambda: _bounds(parts)))
    hang_doors(app.routes, parts.ring)
    install_error_pages(app)
    app.add_middleware(BodyLimit, max_bytes=parts.settings.gateway.max_body_bytes)
    app.add_middleware(RequestId)
    return app


def _bounds(parts: Parts) -> Bounds:
    return Bounds(parts.settings.gateway.max_n, parts.fleet.max_model_len)


def _completion_routes(parts: Parts) -> list[BaseRoute]:
    """Plain routes: every token passes here, and nothing of FastAPI's is wanted on its way."""
    chat = ChatParts(
        parts.settings.gateway,
        parts.watch,
        parts.fleet,
        parts.ledger,
        parts.turn_log,
        parts.metrics,
        parts.trials.duels,
        parts.meter,
        parts.limiter,
    )
    paths: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
    return [
        Route(path, needs(Scope.chat)(Completions(kind, chat)), methods=["POST"], name=kind)
        for path, kind in paths.items()
    ]


def _fleet(settings: Settings, metrics: Metrics, view: Callable[[], RegistryView | None]) -> Fleet:
    rules = _swap_rules(settings)
    replicas = []
    for url in settings.engine_urls:
        engine, shelf = Engine(url), Shelf()
        replicas.append(Replica(engine, shelf, Swap(engine, shelf, rules, metrics, view)))
    return Fleet(replicas)


def _swap_rules(settings: Settings) -> SwapRules:
    return SwapRules(
        adapters=settings.adapters_path,
        base_shapes=base_shapes(settings.model_path),
        max_versions=settings.engine.max_loras - 1,
        max_rank=settings.engine.max_lora_rank,
        max_bytes=settings.gateway.max_adapter_bytes,
        tolerance_nats=settings.gateway.verify_tolerance_nats,
        poll_s=settings.gateway.engine_poll_s,
    )


def _import_rules(settings: Settings, base_digest: str) -> ImportRules:
    modules = frozenset(name.strip() for name in settings.engine.target_modules.split(",") if name.strip())
    limits = Limits(
        base=base_shapes(settings.model_path),
        max_rank=settings.engine.max_lora_rank,
        max_bytes=settings.gateway.max_adapter_bytes,
        modules=modules or None,
    )
    return ImportRules(settings.imports_path, settings.adapters_path, base_digest, limits)


async def serve(settings: Settings) -> None:
    """Listens until SIGTERM or SIGINT; running answers are given time to end."""
    make_key_files(settings.home)
    await wait_for_model(settings.model_path)
    parts = build_parts(settings)
    config = uvicorn.Config(
        build_app(parts),
        host=settings.gateway.host,
        port=settings.gateway.port,
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_config=None,
    )
    await GracefulServer(config, settings.gateway.stop_s, parts.fleet.hang_up).serve()


async def wait_for_model(model_path: Path) -> None:
    """The model's digest names the base that policies belong to; its conversion writes it last."""
    digest = model_path / "digest.txt"
    if not digest.exists():
        log.warning("waiting for %s: the model is not converted yet (`make up` does it)", digest)
    while not digest.exists():  # noqa: ASYNC110 - another process makes the file
        await asyncio.sleep(1)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvloop.run(serve(Settings.read_or_exit()))


if __name__ == "__main__":
    main()
