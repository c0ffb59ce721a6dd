"""What a request may use of what stands in the engine. Pure."""

import pytest

from feedback.policies import PolicyState
from serve.errors import EngineUnavailable, ModelNotFound
from serve.replicas.engine import EngineModels
from serve.replicas.shelf import Load, LoadState, Shelf
from tests.serve.makers import make_policy

POLICY = make_policy(1, PolicyState.retired)
VERSION = POLICY.version


@pytest.fixture
def shelf() -> Shelf:
    """A shelf on which one version is loaded."""
    shelf = Shelf()
    shelf.seen(EngineModels("base", 2048, frozenset({VERSION})))
    shelf.loads[VERSION] = Load(LoadState.loaded)
    return shelf


def test_a_version_that_drains_takes_no_new_requests_until_it_is_kept_again(shelf: Shelf) -> None:
    shelf.drain_all_but({VERSION})
    assert shelf.engine_name(POLICY, live=False) == VERSION
    shelf.drain_all_but(set())
    assert not shelf.is_loaded(POLICY)
    with pytest.raises(ModelNotFound, match="being unloaded"):
        shelf.engine_name(POLICY, live=False)
    shelf.drain_all_but({VERSION})
    assert shelf.engine_name(POLICY, live=False) == VERSION


def test_a_version_that_is_live_again_answers_although_it_drained(shelf: Shelf) -> None:
    shelf.drain_all_but(set())
    assert shelf.engine_name(POLICY, live=True) == VERSION


def test_a_version_that_the_engine_lost_while_it_drained_is_no_longer_there(shelf: Shelf) -> None:
    shelf.drain_all_but(set())
    assert shelf.seen(EngineModels("base", 2048, frozenset())) == [VERSION]
    with pytest.raises(EngineUnavailable):
        shelf.engine_name(POLICY, live=True)


def test_draining_leaves_refusals_alone(shelf: Shelf) -> None:
    shelf.loads[VERSION] = Load(LoadState.refused, error="why")
    shelf.drain_all_but(set())
    assert shelf.loads[VERSION].error == "why"
