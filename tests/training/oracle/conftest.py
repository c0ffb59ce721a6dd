"""Fixtures of the comparisons with TRL."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import missing
from tests.training.oracle.compare import Setting, moved_state


@pytest.fixture(scope="package", autouse=True)
def _trl_is_installed() -> None:
    if importlib.util.find_spec("trl") is None:
        missing("TRL is not installed: run `make setup`")


@pytest.fixture
def setting(tiny_model: Path, tmp_path: Path) -> Setting:
    """An adapter that has moved away from its start."""
    return Setting(tiny_model, moved_state(tiny_model, seed=7), tmp_path)


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """TRL silences vLLM by an environment variable when it is imported, and engines of later tests would inherit it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
