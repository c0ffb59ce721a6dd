"""Keeps the registry and the keys in memory, so that a request is decided without Redis and goes on without it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from feedback.access_keys import KeyStore
from feedback.errors import FeedbackError
from feedback.policies import RegistryView
from feedback.registry import Registry
from serve.access import KeyRing
from serve.errors import Unavailable

log = logging.getLogger(__name__)


@dataclass
class LedgerWatch:
    """Polls two epochs every `poll_s` seconds and reads what has changed.

    `prepare` runs once, as soon as Redis answers (it enters the base and adopts the key files); `changed` is told of
    every new view. `problem` says why there is nothing to serve by, None when all is well.
    """

    registry: Registry
    keys: KeyStore
    ring: KeyRing
    poll_s: float
    prepare: Callable[[], None]
    changed: Callable[[RegistryView], None] = lambda view: None
    view: RegistryView | None = None
    problem: str | None = "the ledger has not answered yet"
    _keys_epoch: int = -1
    _prepared: bool = False

    def current(self) -> RegistryView:
        """The registry as last seen; Unavailable before it was seen at all."""
        if self.view is None:
            raise Unavailable(f"not ready: {self.problem}", code="ledger_unavailable")
        return self.view

    def accept(self, view: RegistryView) -> None:
        """Takes a view that is newer than the one held: from the poll, or from a change made here."""
        if self.view is not None and view.epoch <= self.view.epoch:
            return
        self.view = view
        self.changed(view)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
                if self.problem is not None:
                    log.info("the ledger answers")
                self.problem = None
            except FeedbackError as error:
                self._say(str(error))
            await asyncio.sleep(self.poll_s)

    async def look(self) -> None:
        """One poll; everything that blocks is done on another thread."""
        if not self._prepared:
            await asyncio.to_thread(self.prepare)
            self._prepared = True
        keys_epoch = await asyncio.to_thread(self.keys.epoch)
        if keys_epoch != self._keys_epoch:
            self.ring.replace(await asyncio.to_thread(self.keys.all))
            self._keys_epoch = keys_epoch
        if self.view is None or await asyncio.to_thread(self.registry.epoch) != self.view.epoch:
            self.accept(await asyncio.to_thread(self.registry.view))

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("the ledger is away or unfit, what is in memory goes on being served: %s", problem)
        self.problem = problem
