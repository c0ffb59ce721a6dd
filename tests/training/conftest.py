"""Fixtures of the training tests: a tiny model made once, and training's own single thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.tiny import make_model
from tests.training.workplace import Workplace, make_workplace
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


@pytest.fixture
def place(
    tmp_path: Path, tiny_model: Path, tiny_tokens: ChatTokens, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Workplace:
    """A home with eight votes and no gateway that answers, in this process's environment."""
    made = make_workplace(tmp_path / "home", tiny_model, redis_url, "http://127.0.0.1:1", tiny_tokens)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    made.vote(8)
    return made
