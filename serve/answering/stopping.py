"""The HTTP server as the gateway runs it: how it stops, and what it refuses before a request exists for the app."""

import asyncio
import logging
from collections.abc import Callable
from socket import socket

import uvicorn

log = logging.getLogger(__name__)
# For callers to be told, and for their turns to be written.
_TELL_S = 5


class GracefulServer(uvicorn.Server):
    """At a stop nobody new is let in and running answers go on for `stop_s`; then `hang_up` ends what is left.

    uvicorn by itself would cancel them without a word to their callers.
    """

    def __init__(self, config: uvicorn.Config, stop_s: float, hang_up: Callable[[], object]) -> None:
        config.timeout_graceful_shutdown = int(stop_s) + _TELL_S
        super().__init__(config)
        self._stop_s = stop_s
        self._hang_up = hang_up

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_late())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_late(self) -> None:
        await asyncio.sleep(self._stop_s)
        log.warning(
            "%d requests run %g s after the stop began and are ended", len(self.server_state.tasks), self._stop_s
        )
        self._hang_up()
