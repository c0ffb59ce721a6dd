"""Small samples of what the full commands do (docs/BENCHMARKS.md): mutated bodies, drawn requests, streams, answers."""

import importlib.util
from pathlib import Path

import httpx
import pytest

from tests.bench.check_streams import WAYS, Place, check, fake_place
from tests.bench.fuzz import run_schemathesis
from tests.bench.mutated import announce, fuzz
from tests.bench.same_answers import compare
from tests.serve.cutting_link import cutting_link
from tests.services import Engine, Gateway, missing


@pytest.mark.slow
def test_mutated_bodies_give_no_5xx_and_leave_nothing_half_recorded(gateway: Gateway) -> None:
    announce(gateway)
    found = fuzz(gateway, 600)
    assert found.failures == []
    assert found.turns > 0, "none was accepted: the mutations are too wild to test anything"
    assert found.events > 0


@pytest.mark.slow
def test_what_openapi_json_says_is_so(gateway: Gateway) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        missing("schemathesis is not installed: `make setup`")
    announce(gateway)
    drawn = run_schemathesis(gateway, 3)
    assert drawn.failures == 0, drawn.said
    assert drawn.cases > 200


@pytest.mark.slow
def test_streams_keep_the_event_format_on_cut_networks(tmp_path: Path, model_dir: Path) -> None:
    with fake_place(tmp_path, model_dir) as place:
        endings, breaches = check(place, WAYS, 60)
    assert breaches == []
    assert endings.total() == 60
    assert {"well: whole", "crumbs: whole", "engine cut: error", "engine error: error"} <= endings.keys()
    assert {ending.split(": ")[1] for ending in endings} == {"whole", "error", "cut"}


def test_streams_of_the_real_engine_keep_the_event_format(real_gateway: Gateway) -> None:
    with cutting_link(real_gateway.url) as link:
        endings, breaches = check(Place(real_gateway, link), ("well", "crumbs", "cut before the caller"), 30)
    assert breaches == []
    assert endings["well: whole"] == 10


def test_greedy_answers_are_the_engines_own(engine: Engine, real_api: httpx.Client) -> None:
    with httpx.Client(base_url=engine.url, timeout=120) as straight:
        assert compare(real_api, straight, 60) == []
