"""The control queue's work on a real ledger: announcing, starting jobs by the schedule, finding unclaimed ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from feedback.ids import JobId
from feedback.jobs import JobState
from tests.services import ROOT
from tests.training.workplace import Workplace, make_workplace
from training import control
from training.control import Desk, reconcile, tick
from training.errors import SettingsRefused
from training.settings import Settings
from training.tokens import ChatTokens


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, tiny_tokens: ChatTokens, redis_url: str) -> Workplace:
    return make_workplace(tmp_path / "home", tiny_model, redis_url, "http://127.0.0.1:1", tiny_tokens)


def make_desk(place: Workplace, **sections: dict[str, object]) -> Desk:
    settings = Settings.model_validate(
        {
            "home": place.home,
            "schedule": {"min_new_pairs": 10, "settle_s": 0},
            "training": {"recipe": "smoke"},
            **sections,
        }
    )
    return Desk(settings, place.ledger, place.registry, place.jobs)


def test_without_a_base_nothing_starts_but_the_offer_is_announced(place: Workplace) -> None:
    sent: list[JobId] = []
    place.vote(12)
    decision = tick(make_desk(place), sent.append)
    assert not decision.train
    assert "base model" in decision.reasons[0]
    offer = place.jobs.announcement()
    assert offer is not None
    assert offer.default_recipe == "smoke"
    assert {"dpo", "smoke"} <= offer.recipes.keys()
    assert offer.rules.min_new_pairs == 10
    assert sent == []


def test_enough_votes_start_one_job_on_all_that_stand(place: Workplace) -> None:
    sent: list[JobId] = []
    desk = make_desk(place)
    place.registry.ensure_base(place.base_digest)
    place.vote(9)
    assert not tick(desk, sent.append).train
    place.vote(3, first=50)
    assert tick(desk, sent.append).train
    assert not tick(desk, sent.append).train
    [job] = place.jobs.recent()
    assert sent == [job.id]
    assert (job.n_events, job.recipe, job.actor) == (12, "smoke", "schedule")
    assert job.recipe_body["adapter"]["rank"] == 8
    assert place.jobs.snapshot(job.id) == [event.id for event in place.ledger.standing_events()]


def test_a_job_that_nobody_works_on_is_sent_again_when_no_message_is_on_its_way(place: Workplace) -> None:
    place.vote(8)
    job_id = place.start_job()
    sent: list[JobId] = []
    desk = make_desk(place)
    assert reconcile(desk, 1, sent.append) == []
    assert reconcile(desk, 0, sent.append) == [job_id] == sent
    claim = place.jobs.claim(job_id, worker="w", lease_s=60)
    assert claim is not None
    assert reconcile(desk, 0, sent.append) == []
    place.jobs.heartbeat(claim, 0.0)
    assert reconcile(desk, 0, sent.append) == [job_id]
    place.jobs.finish(claim, version=None)
    assert reconcile(desk, 0, sent.append) == []
    assert place.jobs.get(job_id).state is JobState.done


def test_an_unknown_default_recipe_is_refused_by_name(place: Workplace) -> None:
    with pytest.raises(SettingsRefused, match="'dop' is no recipe; choose one of"):
        tick(make_desk(place, training={"recipe": "dop"}), lambda job_id: None)


def test_the_code_version_is_the_same_every_time() -> None:
    first = control.code_version()
    control.code_version.cache_clear()
    assert control.code_version() == first
    assert len(first) == 12


@pytest.mark.parametrize("module", ["training.app", "training.cli", "training.runner"])
def test_workers_and_commands_load_with_torch_absent(module: str) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'peft']))"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}; import {module}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
