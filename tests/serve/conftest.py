"""Gateways for the tests: on the fake engine where a failure must be made, on the real one where answers count."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.ids import Version
from tests.adapters import make_adapter
from tests.fake_engine import BASE, FakeEngine, fake_engine, score
from tests.serve.publish import Publisher
from tests.services import Engine, Gateway, start_gateway, start_redis

FAKE_TOKENS = tuple(range(10, 30))


def fake_probes(version: Version, directory: Path) -> Sequence[dict[str, Any]]:
    """Probes with the fake engine's own numbers."""
    scored = FAKE_TOKENS[4:]
    base, adapter = ([score(model, token) for token in scored] for model in (BASE, version))
    return [{"token_ids": FAKE_TOKENS, "start": 4, "base": base, "adapter": adapter}]


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path) -> Iterator[Gateway]:
    """A gateway of its own on an empty Redis and a fake engine."""
    with start_gateway(tmp_path / "home", redis_url, fake.url, model=model_dir) as running:
        yield running


@pytest.fixture(scope="module")
def shared_fake() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        yield running


@pytest.fixture(scope="module")
def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_fake: FakeEngine, model_dir: Path
) -> Iterator[Gateway]:
    """One gateway, with a Redis of its own, for tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("shared")
    with (
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, shared_fake.url, model=model_dir) as running,
    ):
        yield running


@pytest.fixture
def api(gateway: Gateway) -> Iterator[httpx.Client]:
    """The operator's client of `gateway`."""
    with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=60) as client:
        yield client


@pytest.fixture
def shared_api(shared_gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_gateway.url, headers=shared_gateway.headers(), timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def real_gateway(tmp_path_factory: pytest.TempPathFactory, engine: Engine, model_dir: Path) -> Iterator[Gateway]:
    """A gateway on the real engine, with a Redis and a home of its own."""
    folder = tmp_path_factory.mktemp("real")
    with (
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, engine.url, model=model_dir) as running,
    ):
        yield running


@pytest.fixture
def real_api(real_gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=real_gateway.url, headers=real_gateway.headers(), timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def strong_adapters(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Path]:
    """Two adapters whose answers are easily told from the base's and from each other's."""
    folder = tmp_path_factory.mktemp("strong")
    return (
        make_adapter(folder / "one", model_dir, seed=3, scale=0.4),
        make_adapter(folder / "two", model_dir, seed=4, scale=0.4),
    )


@pytest.fixture(scope="session")
def two_adapters(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Path]:
    """Two adapters that change the base clearly, each its own way."""
    folder = tmp_path_factory.mktemp("made")
    return (
        make_adapter(folder / "one", model_dir, seed=1, scale=0.1),
        make_adapter(folder / "two", model_dir, seed=2, scale=0.1),
    )


@pytest.fixture
def publisher(gateway: Gateway, model_dir: Path) -> Publisher:
    """Publishes into `gateway`'s home with numbers of the fake engine."""
    return Publisher(gateway.home, gateway.redis_url, model_dir, fake_probes)


def ask(text: str = "hi", **fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": "burnish", "messages": [{"role": "user", "content": text}], **fields}
