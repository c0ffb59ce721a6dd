"""Fixtures for the page: a running system, and a browser that nobody has used before."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.services import Engine
from tests.ui.system import System, start_system

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="module")
def system(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("page")
    with start_system(folder, engine, BURNISH_UI_MAX_TOKENS="60", BURNISH_UI_TEMPERATURE="1") as running:
        yield running


@pytest.fixture
def context(browser: "Browser") -> Iterator["BrowserContext"]:
    """A browser that nobody has used before."""
    fresh = browser.new_context(viewport={"width": 1280, "height": 860})
    yield fresh
    fresh.close()


@pytest.fixture
def page(context: "BrowserContext") -> "Page":
    return context.new_page()
