"""Fixtures on real services; the services themselves are in `tests/services.py`."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.services import CHROMIUM_FLAGS, ROOT, Engine, find_chromium, missing, start_engine, start_redis

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services they ask for; quick ones first, the browser's last.

    Playwright's synchronous API keeps an event loop on the main thread, and asyncio tests cannot run beside it.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "engine" in fixtures:
            item.add_marker("engine")
        if "browser" in fixtures:
            item.add_marker("browser")
    items.sort(key=lambda item: (bool(item.get_closest_marker("browser")), bool(item.get_closest_marker("engine"))))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One durable Redis for the whole run; use `redis_url`, which starts each test on an empty one."""
    with start_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty real Redis (database 0; Celery's broker is database 1, emptied too)."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The converted base model: $BURNISH_TEST_MODEL, else made once in `.cache/model`."""
    given = os.environ.get("BURNISH_TEST_MODEL")
    folder = Path(given) if given else ROOT / ".cache" / "model"
    if not (folder / "digest.txt").exists():
        from training.base.convert import convert

        convert(folder)
    return folder


@pytest.fixture(scope="session")
def engine(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A real vLLM with the converted model and the LoRA plugin, shared by the whole run."""
    if importlib.util.find_spec("vllm") is None:
        missing("vLLM is not installed: run `make up` or `make test`, which set it up")
    with start_engine(tmp_path_factory.mktemp("home"), model_dir) as running_engine:
        yield running_engine


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Headless Chromium driven by Playwright."""
    chromium = find_chromium()
    if chromium is None:
        missing("no `chromium` on PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield chrome
        chrome.close()
