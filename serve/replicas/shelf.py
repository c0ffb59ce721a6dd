"""What stands ready in one replica, as far as this gateway knows: which adapters are loaded, and who uses them.

Memory only. `swap` writes it, every request reads it; both run on one event loop, so no lock is needed.
"""

import time
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from feedback.ids import Version
from feedback.policies import Policy
from serve.errors import EngineUnavailable, ModelNotFound
from serve.replicas.engine import EngineModels
from serve.replicas.probes import Rows, Verdict


class LoadState(StrEnum):
    """A draining adapter answers the requests that run on it and takes no new ones; then it is unloaded."""

    loading = "loading"
    loaded = "loaded"
    draining = "draining"
    refused = "refused"


@dataclass(frozen=True)
class Load:
    """`error` says why an adapter was refused; `since` is monotonic.

    `scores` are the log-probs of its probes as this engine gave them, `verdict` what they showed.
    """

    state: LoadState
    error: str | None = None
    verdict: Verdict | None = None
    scores: Rows | None = None
    since: float = field(default_factory=time.monotonic)

    def as_json(self) -> dict[str, Any]:
        return {"state": self.state, "error": self.error}


@dataclass
class Shelf:
    """`models` is what the engine served when it was last looked at; None while it is away."""

    models: EngineModels | None = None
    loads: dict[Version, Load] = field(default_factory=dict)
    in_flight: Counter[Version] = field(default_factory=Counter)

    def seen(self, models: EngineModels | None) -> list[Version]:
        """Takes note of what the engine serves; gives the versions it has lost, by a restart for instance."""
        self.models = models
        there = models.adapters if models else frozenset()
        stood = (LoadState.loaded, LoadState.draining)
        lost = [v for v, load in self.loads.items() if load.state in stood and v not in there]
        for version in lost:
            del self.loads[version]
        return lost

    def drain_all_but(self, kept: Container[Version]) -> None:
        """What is loaded and not kept drains from here on; what drains and is kept again is loaded as before."""
        for version, load in self.loads.items():
            if load.state is LoadState.loaded and version not in kept:
                self.loads[version] = replace(load, state=LoadState.draining)
            elif load.state is LoadState.draining and version in kept:
                self.loads[version] = replace(load, state=LoadState.loaded)

    @property
    def running(self) -> int:
        """Requests in flight, on whatever version."""
        return self.in_flight.total()

    def is_loaded(self, policy: Policy) -> bool:
        if self.models is None:
            return False
        if policy.adapter is None:
            return True
        load = self.loads.get(policy.version)
        return load is not None and load.state is LoadState.loaded

    def load_of(self, policy: Policy) -> Load | None:
        """How an adapter stands; None where nobody asked for it to be loaded."""
        if policy.adapter is None:
            return Load(LoadState.loaded if self.models else LoadState.loading)
        return self.loads.get(policy.version)

    def engine_name(self, policy: Policy, *, live: bool, begun: bool = False) -> str:
        """The engine's name for a policy that is loaded now.

        EngineUnavailable while it is expected to come (the engine is away, or the live version is being loaded),
        ModelNotFound for a version that nobody keeps loaded. One that drains is refused too, or those who pin it
        would keep it loaded for ever; unless it is live again, which the swap's next look will see, or the answer was
        `begun` before, on another replica.
        """
        if self.models is None:
            raise EngineUnavailable("the engine is away; it is being waited for, the request may be sent again")
        if policy.adapter is None:
            return self.models.base
        load = self.loads.get(policy.version)
        usable = (LoadState.loaded, LoadState.draining) if live or begun else (LoadState.loaded,)
        if load is not None and load.state in usable:
            return policy.version
        if load is not None and load.state is LoadState.draining:
            raise ModelNotFound(f"{policy.version} is {policy.state} and being unloaded; see /v1/models", param="model")
        if live or (load is not None and load.state is LoadState.loading):
            raise EngineUnavailable(f"{policy.version} is being loaded; the request may be sent again")
        raise ModelNotFound(f"{policy.version} is {policy.state} and not loaded; see /v1/models", param="model")

    @contextmanager
    def using(self, version: Version) -> Iterator[None]:
        """Counts a request as running on a version until the block ends: it is not unloaded meanwhile."""
        self.in_flight[version] += 1
        try:
            yield
        finally:
            self.in_flight[version] -= 1
