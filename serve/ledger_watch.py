"""Keeps the registry and the keys in memory, so that a request is decided without Redis and goes on without it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from feedback.access_keys import KeyStore
from feedback.errors import FeedbackError
from feedback.policies import RegistryView
from feedback.registry import Registry
from serve.access.doors import KeyRing
from serve.errors import Unavailable

log = logging.getLogger(__name__)


@dataclass
class LedgerWatch:
    """Polls two epochs every `poll_s` seconds and reads what has changed.

    `prepare` runs as soon as Redis answers (it enters the base and adopts the key files), and again when Redis has come
    back older or empty; `changed` is told of every new view, `back` when all is well again. `problem` says why there
    is nothing to serve by, None when all is well.
    """

    registry: Registry
    keys: KeyStore
    ring: KeyRing
    poll_s: float
    prepare: Callable[[], None]
    changed: Callable[[RegistryView], None] = lambda view: None
    back: Callable[[], None] = lambda: None
    view: RegistryView | None = None
    problem: str | None = "the ledger has not answered yet"
    _keys_epoch: int = -1
    _prepared: bool = False
    _went_back: bool = False

    def current(self) -> RegistryView:
        """The registry as last seen; Unavailable before it was seen at all."""
        if self.view is None:
            raise Unavailable(f"not ready: {self.problem}", code="ledger_unavailable")
        return self.view

    def accept(self, view: RegistryView) -> None:
        """Takes a view that is newer than the one held: from the poll, or from a change made here."""
        if self.view is None or view.epoch > self.view.epoch:
            self._take(view)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
                if self.problem is not None:
                    log.info("the ledger answers")
                    self.back()
                self.problem = None
            except FeedbackError as error:
                self._say(str(error))
            except Exception as error:  # noqa: BLE001 - without the watch no move or key would ever be noticed again
                # What is wrong with a row may quote it, and /readyz is read by anybody: the log alone says it.
                self._say(f"unforeseen {type(error).__name__}; the gateway's log says more", error)
            await asyncio.sleep(self.poll_s)

    async def look(self) -> None:
        """One poll; everything that blocks is done on another thread."""
        held = self.view
        epoch = await asyncio.to_thread(self.registry.epoch)
        if held is not None and epoch < held.epoch and not self._went_back:
            self._start_anew(held.epoch, epoch)
        if not self._prepared:
            await asyncio.to_thread(self.prepare)
            self._prepared = True
        keys_epoch = await asyncio.to_thread(self.keys.epoch)
        if keys_epoch != self._keys_epoch:
            self.ring.replace(await asyncio.to_thread(self.keys.all))
            self._keys_epoch = keys_epoch
        if self._went_back:
            self._take(await asyncio.to_thread(self.registry.view))
            self._went_back = False
        elif self.view is None or epoch != self.view.epoch:
            self.accept(await asyncio.to_thread(self.registry.view))

    def _start_anew(self, held: int, found: int) -> None:
        """Epochs only grow: a lower one is another Redis, or an older copy, in which the base and the keys may lack."""
        log.error("the registry went back from epoch %d to %d: moves and votes made in between are lost", held, found)
        self._went_back = True
        self._prepared = False
        self._keys_epoch = -1

    def _take(self, view: RegistryView) -> None:
        self.view = view
        self.changed(view)

    def _say(self, problem: str, error: Exception | None = None) -> None:
        if problem != self.problem:
            log.warning(
                "the ledger is away or unfit, what is in memory goes on being served: %s", problem, exc_info=error
            )
        self.problem = problem
