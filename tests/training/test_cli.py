"""`burnish model` and `burnish jobs` against the real gateway (the engine behind it is a stand-in)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fake_engine import fake_engine
from tests.services import start_gateway
from tests.training.workplace import Workplace, make_workplace
from training.cli import jobs, model, told
from training.control import Desk, tick
from training.examples.tokens import ChatTokens
from training.settings import Settings


@pytest.fixture
def place(
    tmp_path: Path, tiny_model: Path, tiny_tokens: ChatTokens, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workplace]:
    home = tmp_path / "home"
    made = make_workplace(home, tiny_model, redis_url, "", tiny_tokens)
    with fake_engine() as engine, start_gateway(home, redis_url, engine.url, model=home / "model") as gateway:
        for name, value in (made.environment() | {"BURNISH_GATEWAY_URL": gateway.url}).items():
            monkeypatch.setenv(name, value)
        yield made


def run(app: object, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)  # type: ignore[arg-type]
    return done.exit_code, done.output


def test_jobs_are_started_and_listed_through_the_gateway(place: Workplace) -> None:
    settings = Settings.read()
    tick(Desk(settings, place.ledger, place.registry, place.jobs), lambda job_id: None)
    assert run(jobs, "watch") == (1, "burnish: there is no job yet; start one with: burnish jobs start --reason …\n")
    code, said = run(jobs, "start", "--reason", "now", "--recipe", "smoke")
    assert (code, "8" in said) == (1, True), said
    place.vote(8)
    code, said = run(jobs, "start", "--reason", "now", "--recipe", "smoke")
    assert code == 0, said
    [job] = place.jobs.recent()
    assert (job.recipe, job.reason) == ("smoke", "now")
    code, said = run(jobs, "list")
    assert code == 0
    assert f"{job.id}  queued" in said
    code, said = run(jobs, "cancel", job.id, "--reason", "not now")
    assert (code, f"{job.id}  failed" in said) == (0, True), said
    code, said = run(jobs, "cancel", job.id, "--reason", "not now")
    assert (code, "only one that waits or runs" in said) == (1, True), said
    assert run(jobs, "start", "--reason", "now after all", "--recipe", "smoke")[0] == 0
    claim = place.jobs.claim(job.id, worker="w", lease_s=60)
    assert claim is not None
    place.jobs.add_point(claim, {"step": 1, "loss": 0.6931, "margin": 0.0})
    place.jobs.fail(claim, "no luck", retry=False)
    code, said = run(jobs, "watch")
    assert code == 1
    assert "step 1: loss 0.693" in said
    assert "no luck" in said


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"loss": 0.6931, "margin": 0.0}, "step 7: loss 0.693, margin +0.00"),
        (
            {"loss": 0.5, "reward_margin": 0.25, "reward_mean": -0.1},
            "step 7: loss 0.500, reward margin +0.25, reward mean -0.10",
        ),
        ({"loss": 1.5, "nll": 1.5}, "step 7: loss 1.500"),
    ],
)
def test_a_point_of_any_loop_is_told(point: dict[str, float], words: str) -> None:
    assert told(point | {"step": 7}) == words


def test_a_model_that_is_there_is_only_named(place: Workplace) -> None:
    code, said = run(model, "convert", str(place.home / "model"))
    assert code == 0
    assert place.base_digest[:12] in said
