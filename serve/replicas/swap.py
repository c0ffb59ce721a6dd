"""The hot swap: brings adapters up in one replica's engine, verifies them, takes them down when nobody uses them.

One loop compares what the registry wants with what the engine has. It repairs an engine that was restarted, and
never touches traffic: that follows the registry, which only `promotion` changes.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from feedback.ids import Version
from feedback.policies import Policy, PolicyState, RegistryView
from serve.adapters.adapter_files import AdapterRefused, Expected, Shapes, check_adapter
from serve.adapters.manifest import Manifest
from serve.errors import ApiError, EngineFailed, EngineRefused, EngineUnavailable
from serve.metrics import Metrics
from serve.replicas.engine import AdapterNotLoaded, Engine, EngineModels, LoadRefused
from serve.replicas.probes import Rows, Scored, Verdict, judge_probes, unlike_peers
from serve.replicas.shelf import Load, LoadState, Shelf

log = logging.getLogger(__name__)
_AWAY_POLL_S = 0.25
_RETRY_LIVE_S = 5.0
# A job waits for its rollouts and its draft. Candidates may be held in any number, and are loaded when they are
# promoted at the latest.
_COMING = (PolicyState.canary, PolicyState.rollout, PolicyState.draft, PolicyState.candidate)


@dataclass(frozen=True)
class SwapRules:
    """`max_versions` adapters are kept loaded; `tolerance_nats` is what probes may differ by, per token."""

    adapters: Path
    base_shapes: Shapes
    max_versions: int
    max_rank: int
    max_bytes: int
    tolerance_nats: float
    poll_s: float


def wanted_versions(view: RegistryView, most: int) -> list[Policy]:
    """The adapters to keep loaded, most needed first: live, previous, then what comes next, newest first.

    The newest rejected one stays as long as there is room, for the operator who wants to see why.
    """
    kept = [view.policies[v] for v in (view.live, view.previous) if v is not None]
    newest_first = sorted(view.policies.values(), key=lambda policy: -policy.counter)
    kept += [policy for state in _COMING for policy in newest_first if policy.state is state]
    kept += [policy for policy in newest_first if policy.state is PolicyState.rejected][:1]
    return [policy for policy in kept if policy.adapter is not None][:most]


def _may_retry(load: Load) -> bool:
    """Without its live version a line serves nothing, so a refusal of that one is tried again now and then."""
    return load.state is LoadState.refused and time.monotonic() - load.since > _RETRY_LIVE_S


@dataclass
class Swap:
    """Runs the loop; `view` gives the registry as last seen, None before that.

    `peers` gives what the probes of a version scored on other replicas, by the replica's name. `used_elsewhere` says
    whether one of them answers with it: should it die, its answers go on here.
    """

    engine: Engine
    shelf: Shelf
    rules: SwapRules
    metrics: Metrics
    view: Callable[[], RegistryView | None]
    peers: Callable[[Version], Mapping[str, Rows]] = lambda version: {}
    used_elsewhere: Callable[[Version], bool] = lambda version: False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _held: Counter[Version] = field(default_factory=Counter)

    @contextmanager
    def held(self, version: Version) -> Iterator[None]:
        """Keeps an adapter loaded until the block ends although the registry does not want it yet."""
        self._held[version] += 1
        try:
            yield
        finally:
            self._held[version] -= 1

    def look_again(self) -> None:
        """Asks for a look right now: the registry changed, or the engine seemed to be away."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                async with self._turn:
                    await self._look()
            except ApiError as error:
                log.warning("%s could not be set right, trying again: %s", self.engine.name, error.message)
            except Exception:  # The loop must outlive any surprise: without it nothing is ever repaired.
                log.exception("the swap loop of %s met something unforeseen, trying again", self.engine.name)
            patience_s = self.rules.poll_s if self.shelf.models else _AWAY_POLL_S
            try:
                await asyncio.wait_for(self._wake.wait(), patience_s)
            except TimeoutError:
                continue
            # What woke us may wake us again at once while the engine is away: not faster than this.
            await asyncio.sleep(0.02)

    async def ready(self, policy: Policy) -> Verdict | None:
        """Brings one policy up if it is not, and verifies it anew; AdapterRefused when it does not stand up.

        None for the bare base, which has nothing to verify.
        """
        if policy.adapter is None:
            return None
        async with self._turn:
            models = await self.engine.models()
            self.shelf.seen(models)
            if not self.shelf.is_loaded(policy):
                await self._bring_up(policy, models)
            load = self.shelf.loads.get(policy.version)
            if load is None or load.state is not LoadState.loaded:
                raise AdapterRefused((load and load.error) or f"{policy.version} could not be loaded")
            manifest = await asyncio.to_thread(self._check, policy)
            return (await self._verify(policy, manifest, models)).verdict

    async def _look(self) -> None:
        try:
            models = await self.engine.models()
        except EngineUnavailable:
            if self.shelf.models is not None:
                log.warning("%s is away", self.engine.name)
            self.shelf.seen(None)
            self.metrics.engine_up.labels(self.engine.name).set(0)
            return
        if self.shelf.models is None:
            context = models.max_model_len
            log.info("%s answers: base %s, %d tokens of context", self.engine.name, models.base, context)
        for version in self.shelf.seen(models):
            log.warning("%s has lost %s, loading it again", self.engine.name, version)
        self.metrics.engine_up.labels(self.engine.name).set(1)
        view = self.view()
        if view is None:
            return
        self.shelf.drain_all_but(self._kept())
        for policy in wanted_versions(view, self.rules.max_versions):
            load = self.shelf.loads.get(policy.version)
            if load is None or (policy.version == view.live and _may_retry(load)):
                await self._bring_up(policy, models)
        await self._take_down(models)

    def _kept(self) -> set[Version]:
        """What stays loaded: asked anew for each decision, because the registry moves while adapters are loaded."""
        view = self.view()
        wanted = [] if view is None else wanted_versions(view, self.rules.max_versions)
        return {policy.version for policy in wanted} | (+self._held).keys()

    async def _bring_up(self, policy: Policy, models: EngineModels) -> None:
        """Check the files, load, verify. Refusals are remembered; an engine that is away leaves nothing behind.

        Whatever else goes wrong is a refusal: one odd adapter must not hold up those that come after it.
        """
        version = policy.version
        self.shelf.loads[version] = Load(LoadState.loading)
        try:
            manifest = await asyncio.to_thread(self._check, policy)
            if version not in models.adapters:
                await self._load(policy)
            load = await self._verify(policy, manifest, models)
        except (EngineUnavailable, asyncio.CancelledError):
            self.shelf.loads.pop(version, None)
            raise
        except (AdapterRefused, LoadRefused) as error:
            await self._refuse(version, str(error))
            return
        except Exception as error:
            log.exception("%s could not be brought up", version)
            await self._refuse(version, f"unforeseen {type(error).__name__}; the gateway's log says more")
            return
        self.shelf.loads[version] = load
        self.metrics.loads.labels("loaded").inc()
        if load.verdict is not None:
            off, effect = load.verdict.adapter_off, load.verdict.effect_served
            told = "%s is loaded in %s: %.4f nats a token from its manifest's numbers, it changes %.4f"
            log.info(told, version, self.engine.name, off, effect)

    async def _load(self, policy: Policy) -> None:
        try:
            await self.engine.load(policy.version, self._directory(policy))
        except LoadRefused:
            # Another gateway may have loaded it in this moment; under its name lies the same adapter.
            if policy.version not in (await self.engine.models()).adapters:
                raise

    async def _refuse(self, version: Version, why: str) -> None:
        self.shelf.loads[version] = Load(LoadState.refused, error=why)
        self.metrics.loads.labels("refused").inc()
        log.error("%s is refused in %s: %s", version, self.engine.name, why)
        with suppress(ApiError):  # What stays in the engine now is taken down by the next look.
            await self.engine.unload(version)

    async def _take_down(self, models: EngineModels) -> None:
        """Unloads what was refused, and what nobody wants and no running request uses."""
        for version in models.adapters | self.shelf.loads.keys():
            load = self.shelf.loads.get(version)
            if load is not None and load.state is LoadState.refused:
                if version in models.adapters:
                    await self.engine.unload(version)
                continue
            if version in self._kept() or self.shelf.in_flight[version] or self.used_elsewhere(version):
                continue
            self.shelf.loads.pop(version, None)
            await self.engine.unload(version)
            log.info("%s is unloaded from %s", version, self.engine.name)

    def _directory(self, policy: Policy) -> Path:
        return self.rules.adapters / policy.version

    def _check(self, policy: Policy) -> Manifest:
        expected = Expected(
            version=policy.version,
            digest=policy.digest or "",
            base_digest=policy.base_digest,
            max_rank=self.rules.max_rank,
            max_bytes=self.rules.max_bytes,
        )
        return check_adapter(self._directory(policy), expected, self.rules.base_shapes)

    async def _verify(self, policy: Policy, manifest: Manifest, models: EngineModels) -> Load:
        """The load of an adapter that stands up: to its manifest's numbers, and to those of the other replicas."""
        texts = [probe.token_ids for probe in manifest.probes]
        try:
            base = await self.engine.score(models.base, texts)
            adapter = await self.engine.score(policy.version, texts)
        except AdapterNotLoaded as error:
            raise EngineUnavailable(f"the engine was restarted while {policy.version} was verified") from error
        except (EngineRefused, EngineFailed) as error:
            raise AdapterRefused(f"the engine would not score its probes: {error.message}") from error
        faint = policy.state is PolicyState.rollout  # its trainer compares every token of its answers
        verdict = judge_probes(manifest.probes, Scored(base, adapter), self.rules.tolerance_nats, may_be_faint=faint)
        problem = verdict.problem or unlike_peers(adapter, self.peers(policy.version), self.rules.tolerance_nats)
        if problem is not None:
            raise AdapterRefused(problem)
        return Load(LoadState.loaded, verdict=verdict, scores=adapter)
