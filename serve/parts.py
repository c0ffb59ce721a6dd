"""Everything the gateway is made of, built and wired; nothing runs yet. A half of the composition root: see `app`."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from feedback.access_keys import KeyStore
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
from serve.access.doors import KeyRing
from serve.access.key_files import adopt_key_files
from serve.adapters.adapter_files import base_shapes
from serve.adapters.import_check import Limits
from serve.adapters.imports import Importer, ImportRules
from serve.adapters.try_out import EngineTryOut
from serve.answering.turn_log import TurnLog
from serve.ledger_watch import LedgerWatch
from serve.limits.limiter import Limiter
from serve.limits.quotas import Quotas
from serve.metrics import Metrics
from serve.policies.judge import Judge
from serve.policies.promotion import Promotion
from serve.policies.traffic_meter import TrafficMeter
from serve.policies.trials import Trials
from serve.replicas.engine import Engine
from serve.replicas.fleet import Fleet, Replica
from serve.replicas.shelf import Shelf
from serve.replicas.swap import Swap, SwapRules
from serve.settings import Settings

log = logging.getLogger(__name__)
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
    trials = Trials(DuelRows(redis, line, ledger), TrafficRows(redis, line))
    promotion = Promotion(registry, watch, fleet, metrics, trials)
    gateway = new_nonce()
    lease = Lease(redis, Keyspace(line).judge, holder=gateway, ttl_s=_JUDGE_LEASE_S)
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
        limiter=_limiter(settings, fleet, metrics),
    )


def _limiter(settings: Settings, fleet: Fleet, metrics: Metrics) -> Limiter:
    quotas = Quotas(QuotaLedger(Link(settings.redis_url)), settings.gateway.quota_patience_s, metrics.limits_alone.set)
    return Limiter(
        quotas,
        fleet.count_tokens,
        capacity=settings.engine.max_requests * len(fleet.replicas),
        refused=lambda why: metrics.refused.labels(why).inc(),
    )


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
