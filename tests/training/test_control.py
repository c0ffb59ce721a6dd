"""The control queue's work on a real ledger: announcing, starting jobs by the schedule, finding unclaimed ones."""

import hashlib
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
from training.examples.tokens import ChatTokens
from training.settings import Settings


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


def test_thumbs_alone_start_a_job_by_a_recipe_that_learns_from_them(place: Workplace) -> None:
    sent: list[JobId] = []
    desk = make_desk(place, training={"recipe": "kto"})
    place.registry.ensure_base(place.base_digest)
    place.rate(9)
    decision = tick(desk, sent.append)
    assert "9 new thumbs since the last training, 10 start one" in decision.reasons
    assert not tick(make_desk(place), sent.append).train, "nothing of it is a pair"
    place.rate(1, first=50)
    assert tick(desk, sent.append).reasons == ("10 new thumbs since the last training",)
    [job] = place.jobs.recent()
    assert (sent, job.recipe, job.n_events) == ([job.id], "kto", 10)


def test_scores_alone_start_a_job_by_a_reward_model_with_heads_for_them(place: Workplace, tmp_path: Path) -> None:
    own = tmp_path / "recipes"
    own.mkdir()
    (own / "two_heads.toml").write_text('algorithm = "reward"\nheads = ["helpful", "harmless"]\n')
    desk = make_desk(place, training={"recipe": "two_heads", "recipes": own})
    place.registry.ensure_base(place.base_digest)
    place.score(4)
    assert "8 new pairs since the last training, 10 start one" in tick(desk, lambda job_id: None).reasons
    place.score(1)
    assert tick(desk, lambda job_id: None).train
    [job] = place.jobs.recent()
    assert (job.recipe, job.n_events) == ("two_heads", 20)


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


def with_votes(place: Workplace) -> Workplace:
    """Enough of them for a job to start."""
    place.registry.ensure_base(place.base_digest)
    place.vote(12)
    return place


def recipe_folder(place: Workplace, **files: bytes) -> dict[str, object]:
    """The training section of an operator with recipes of their own."""
    folder = place.home / "recipes"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.toml").write_bytes(content)
    return {"recipes": folder}


def test_an_unknown_default_recipe_starts_nothing_and_is_told_by_name(place: Workplace) -> None:
    desk = make_desk(with_votes(place), training={"recipe": "dop"})
    decision = tick(desk, lambda job_id: None)
    assert not decision.train
    assert "'dop' is no recipe; set BURNISH_TRAINING_RECIPE to one of" in decision.reasons[0]
    offer = place.jobs.announcement()
    assert offer is not None
    assert "dpo" in offer.recipes


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"algorithm = dpo", "mine.toml is no valid TOML"),
        (b'algorithm = "dpo"\nbeta = 9', "beta = 9 is refused"),
        (b'algorithm = "dpo" # \xe4', "mine.toml is no text in UTF-8"),
        (b'algorithm = ["dpo"]', "algorithm = ['dpo'] is not known"),
    ],
)
def test_a_recipe_that_is_refused_is_left_out_and_told_of_and_the_rest_are_announced(
    place: Workplace, bad: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    control._warn_once.cache_clear()
    own = recipe_folder(place, mine=bad, other=b'algorithm = "dpo"')
    desk = make_desk(with_votes(place), training={"recipe": "other", **own})
    for _ in range(2):
        tick(desk, lambda job_id: None)
    offer = place.jobs.announcement()
    assert offer is not None
    assert {"dpo", "smoke", "other"} <= offer.recipes.keys()
    assert list(offer.refused) == ["mine"]
    assert says in offer.refused["mine"]
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert says in told, "told once, not at every tick"
    assert [job.recipe for job in place.jobs.recent()] == ["other"]


@pytest.mark.parametrize("name", ["mine", "dpo"])
def test_a_default_recipe_that_is_refused_starts_nothing_and_says_why(place: Workplace, name: str) -> None:
    """Nor does the built-in one of its name stand in for it."""
    own = recipe_folder(place, **{name: b'algorithm = "dpo"\nbeta = 9'})
    decision = tick(make_desk(with_votes(place), training={"recipe": name, **own}), lambda job_id: None)
    assert not decision.train
    assert f"{name}.toml: beta = 9 is refused" in decision.reasons[0]
    offer = place.jobs.announcement()
    assert offer is not None
    assert name not in offer.recipes
    assert place.jobs.recent() == []


def test_a_folder_of_recipes_that_is_not_there_is_told_of_and_nothing_trains_by_others(place: Workplace) -> None:
    folder = place.home / "recipies"
    desk = make_desk(with_votes(place), training={"recipe": "dpo", "recipes": folder})
    decision = tick(desk, lambda job_id: None)
    assert not decision.train
    assert f"training.recipes = {folder} is no folder" in decision.reasons[0]
    offer = place.jobs.announcement()
    assert offer is not None
    assert offer.recipes == {}


def test_another_text_to_replay_makes_another_job(place: Workplace) -> None:
    text = place.home / "replay.jsonl"
    own = recipe_folder(place, mine=b'algorithm = "sft"\n[shares]\npreferred = 1\nreplay = 1')
    desk = make_desk(with_votes(place), training={"recipe": "mine", "replay": text, **own})
    digests = []
    for content in ("a", "b", "b"):
        text.write_text(content)
        digests.append(control.announcement(desk.settings).recipes["mine"]["replay_digest"])
    assert digests[0] != digests[1] == digests[2] == hashlib.sha256(b"b").hexdigest()
    text.unlink()
    offer = control.announcement(desk.settings)
    assert offer.recipes["mine"]["replay_digest"] is None
    assert "replay_digest" not in offer.recipes["dpo"]


def test_what_an_editor_leaves_beside_a_recipe_is_no_recipe(place: Workplace) -> None:
    own = recipe_folder(place, mine=b'algorithm = "dpo"')
    (place.home / "recipes" / ".#mine.toml").symlink_to("nobody@nowhere")
    offer = control.announcement(make_desk(place, training={"recipe": "mine", **own}).settings)
    assert "mine" in offer.recipes
    assert offer.refused == {}


def test_the_code_version_is_the_same_every_time() -> None:
    first = control.code_version()
    control.code_version.cache_clear()
    assert control.code_version() == first
    assert len(first) == 12


@pytest.mark.parametrize("module", ["training.app", "training.cli", "training.worker.runner"])
def test_workers_and_commands_load_with_torch_absent(module: str) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'peft']))"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}; import {module}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
