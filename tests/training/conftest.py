"""Fixtures of the training tests: a tiny model made once, and training's own single thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.tiny import make_model
from training.base.loading import load_chat_tokens
from training.examples.tokens import ChatTokens


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_tokens(tiny_model: Path) -> ChatTokens:
    return load_chat_tokens(tiny_model)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
