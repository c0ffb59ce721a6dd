"""The whole page on real parts: vLLM, gateway, Redis, and the page's own process with its sides drawn by a script."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from feedback.connection import Client, connect
from feedback.ids import BASE_VERSION
from feedback.ledger import Ledger
from feedback.registry import Registry
from tests.services import Engine, Gateway, answers, free_port, offline, running, start_gateway, start_redis
from tests.ui.rows import LINE, Rows, rows

SIDES = "LR"
"""Where the older answer stands, pair by pair, over and over."""


@dataclass(frozen=True)
class System:
    """A running page with what stands behind it."""

    url: str
    gateway: Gateway
    client: Client

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.client, LINE)

    @property
    def registry(self) -> Registry:
        return Registry(self.client, LINE)

    @property
    def rows(self) -> Rows:
        return rows(self.client, self.registry.view().policies[BASE_VERSION].base_digest)


@contextmanager
def start_system(folder: Path, engine: Engine, **env: str) -> Iterator[System]:
    """Redis, gateway and page on free ports, in `folder`; `env` adds to the page's settings."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, engine.url, model=engine.model_path) as gateway,
        running(
            [sys.executable, "-m", "tests.ui.forced_page", SIDES],
            log=folder / "ui.log",
            ready=lambda: answers(f"{url}/healthz"),
            within_s=180,
            env={
                **offline(),
                "BURNISH_HOME": str(gateway.home),
                "BURNISH_GATEWAY_URL": gateway.url,
                "BURNISH_UI_PORT": str(port),
                **env,
            },
        ),
    ):
        yield System(url, gateway, connect(redis_url))
