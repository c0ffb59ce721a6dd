"""The replicas that answer as one: which of them a request goes to, and bringing a version up on all of them.

A replica answers for what its own engine has loaded and verified, and for nothing else.
"""

import asyncio
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from feedback.ids import Version
from feedback.policies import Policy
from serve.errors import ApiError, EngineUnavailable
from serve.replicas.engine import Engine
from serve.replicas.probes import Rows
from serve.replicas.routing import choose
from serve.replicas.shelf import Load, LoadState, Shelf
from serve.replicas.swap import Swap


@dataclass(frozen=True)
class Replica:
    """One engine, what stands ready in it, and the loop that keeps it so."""

    engine: Engine
    shelf: Shelf
    swap: Swap

    @property
    def name(self) -> str:
        return self.engine.name


@dataclass(frozen=True)
class Route:
    """The replica that a request goes to, and what its engine calls the policy."""

    replica: Replica
    engine_model: str


@dataclass(frozen=True)
class Wanted:
    """What a request needs. Those with the same `key` come to the same replica as long as `sticky` asks for it.

    Its answer may have `begun` on a replica that has gone since.
    """

    policy: Policy
    live: bool
    key: str
    sticky: bool
    begun: bool = False


class Fleet:
    """At least one replica; all on one event loop."""

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self.replicas = tuple(replicas)
        for replica in self.replicas:
            others = _Others(tuple(other for other in self.replicas if other is not replica))
            replica.swap.peers = others.scores
            replica.swap.used_elsewhere = others.use

    # Running -----------------------------------------------------------------------------------------------------
    def open(self) -> list[asyncio.Task[None]]:
        """Opens the engines and starts the loops; cancel these before `close`."""
        for replica in self.replicas:
            replica.engine.open()
        return [asyncio.create_task(replica.swap.run()) for replica in self.replicas]

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.engine.close()

    def hang_up(self) -> None:
        """Ends the running answers: the gateway is stopping."""
        for replica in self.replicas:
            replica.engine.hang_up()

    async def count_tokens(self, prompt: Mapping[str, Any]) -> int:
        """As `Engine.count_tokens`; any replica may be asked."""
        answering = [replica.engine for replica in self.replicas if replica.shelf.models is not None]
        return await (answering or [replica.engine for replica in self.replicas])[0].count_tokens(prompt)

    def look_again(self) -> None:
        for replica in self.replicas:
            replica.swap.look_again()

    # Routing -----------------------------------------------------------------------------------------------------
    def route(self, wanted: Wanted, *, without: Container[str] = ()) -> Route:
        """Where a request goes, of the replicas not named in `without`.

        EngineUnavailable while the version is expected to come, ModelNotFound where nobody keeps it loaded.
        """
        ready: dict[str, Route] = {}
        problems: list[tuple[bool, ApiError]] = []
        for replica in self.replicas:
            if replica.name in without:
                continue
            try:
                engine_model = replica.shelf.engine_name(wanted.policy, live=wanted.live, begun=wanted.begun)
                ready[replica.name] = Route(replica, engine_model)
            except ApiError as error:
                problems.append((replica.shelf.models is not None, error))
        if not ready:
            raise _most_telling(problems)
        in_flight = {name: route.replica.shelf.running for name, route in ready.items()}
        return ready[choose(in_flight, wanted.key, sticky=wanted.sticky)]

    # Bringing up -------------------------------------------------------------------------------------------------
    async def ready(self, policy: Policy) -> None:
        """Brings a policy up on every replica that answers, and verifies it there anew.

        AdapterRefused when one of them does not stand up; EngineUnavailable when none answers. A replica that is away
        is no obstacle: it gets no traffic for the policy before its own loop has brought it up.
        """
        ended = await asyncio.gather(*(replica.swap.ready(policy) for replica in self.replicas), return_exceptions=True)
        away = [error for error in ended if isinstance(error, EngineUnavailable)]
        for error in ended:
            if isinstance(error, BaseException) and error not in away:
                raise error
        if len(away) == len(self.replicas) and policy.adapter is not None:
            raise away[0]

    @contextmanager
    def held(self, version: Version) -> Iterator[None]:
        """Keeps an adapter loaded everywhere until the block ends although the registry does not want it yet."""
        with ExitStack() as stack:
            for replica in self.replicas:
                stack.enter_context(replica.swap.held(version))
            yield

    # What stands -------------------------------------------------------------------------------------------------
    @property
    def answers(self) -> bool:
        return any(replica.shelf.models is not None for replica in self.replicas)

    @property
    def max_model_len(self) -> int | None:
        """The context that every replica has, in tokens; None while none answers."""
        lengths = [replica.shelf.models.max_model_len for replica in self.replicas if replica.shelf.models]
        return min(lengths, default=None)

    @property
    def in_flight(self) -> Counter[Version]:
        return sum((replica.shelf.in_flight for replica in self.replicas), Counter[Version]())

    def is_loaded(self, policy: Policy) -> bool:
        return any(replica.shelf.is_loaded(policy) for replica in self.replicas)

    def loads_of(self, policy: Policy) -> dict[str, Load]:
        """How a policy stands on each replica that was asked to load it."""
        loads = {replica.name: replica.shelf.load_of(policy) for replica in self.replicas}
        return {name: load for name, load in loads.items() if load is not None}

    def load_of(self, policy: Policy) -> Load | None:
        """How it stands altogether: loaded where it is so on any replica."""
        loads = list(self.loads_of(policy).values())
        return next((load for load in loads if load.state is LoadState.loaded), loads[0] if loads else None)


@dataclass(frozen=True)
class _Others:
    """What one replica is told of its peers."""

    replicas: tuple[Replica, ...]

    def scores(self, version: Version) -> Mapping[str, Rows]:
        """What a version's probes scored on each that has it loaded."""
        loads = {replica.name: replica.shelf.loads.get(version) for replica in self.replicas}
        return {
            name: load.scores
            for name, load in loads.items()
            if load is not None and load.state is LoadState.loaded and load.scores is not None
        }

    def use(self, version: Version) -> bool:
        """Whether any of them answers with a version now."""
        return any(replica.shelf.in_flight[version] for replica in self.replicas)


def _most_telling(problems: list[tuple[bool, ApiError]]) -> ApiError:
    """Of why no replica can answer: one that is there knows more than one that is away, and "wait" beats "no"."""
    if not problems:
        return EngineUnavailable("no replica is left to ask; send the request again")
    heard = [error for is_there, error in problems if is_there] or [error for _, error in problems]
    return next((error for error in heard if isinstance(error, EngineUnavailable)), heard[0])
