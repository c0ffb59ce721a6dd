"""What the status page says of the next training, and which recipes it offers."""

from typing import Any

import pytest

from ui.frame import progress_html
from ui.gateway import Progress
from ui.status.console import Asked, Facts
from ui.status.view import ask_html, overview_html


def make_schedule(**overrides: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "train": False,
        "reasons": ["3 new thumbs since the last training, 64 start one"],
        "learns_from": "thumbs",
        "new": 3,
        "needed": 64,
        "total": 3,
        "least": 8,
        "people": 3,
        "running": None,
        "recipes": ["dpo", "kto"],
        "refused": {},
        "votes": {"dpo": {"learns_from": "pairs", "total": 0}, "kto": {"learns_from": "thumbs", "total": 3}},
        "default_recipe": "kto",
        "announced_at": 0.0,
    }
    return {**fields, **overrides}


def overview(schedule: dict[str, Any]) -> str:
    return overview_html(Facts({"policies": [], "live": "v0000-base"}, schedule, [], [], None))


def can_train(schedule: dict[str, Any]) -> bool:
    button = overview(schedule).rpartition('data-move="train"')[2]
    return "disabled" not in button.partition(">")[0]


def test_votes_are_counted_as_what_the_next_training_learns_from() -> None:
    told = overview(make_schedule())
    assert "of 64 new thumbs</span>" in told
    assert 'aria-label="New thumbs"' in told
    assert "Train now needs 8 thumbs; there are 3." in told


@pytest.mark.parametrize(("thumbs", "running", "can"), [(3, None, False), (8, None, True), (8, {"id": "job-1"}, False)])
def test_one_can_train_by_any_recipe_that_has_votes_enough(thumbs: int, running: Any, can: bool) -> None:
    votes = {"dpo": {"learns_from": "pairs", "total": 0}, "kto": {"learns_from": "thumbs", "total": thumbs}}
    schedule = make_schedule(default_recipe="dpo", learns_from="pairs", total=0, votes=votes, running=running)
    assert can_train(schedule) is can
    assert ("Train now needs" in overview(schedule)) is (thumbs < 8)


def test_a_recipe_without_votes_enough_is_shown_and_not_offered() -> None:
    votes = {"dpo": {"learns_from": "pairs", "total": 0}, "kto": {"learns_from": "thumbs", "total": 8}}
    form = ask_html(Asked("train"), make_schedule(default_recipe="dpo", votes=votes))
    assert '<option value="dpo" disabled>' in form
    assert '<option value="kto" selected>' in form


def test_without_a_worker_nobody_can_train_and_nothing_is_said_to_be_missing() -> None:
    schedule = make_schedule(recipes=[], votes={}, total=90, default_recipe=None)
    assert not can_train(schedule)
    assert "Train now needs" not in overview(schedule)


def test_the_chat_page_tells_how_many_votes_are_missing() -> None:
    assert "3 of 64 votes until the next training" in progress_html(Progress(3, 64, training=False))
    assert "Enough votes" in progress_html(Progress(70, 64, training=False))


def test_recipes_that_are_refused_are_told_beside_the_schedule() -> None:
    """The default one's refusal is among the reasons already."""
    refused = {"mine": "mine.toml: beta = <9> is refused", "other": "other.toml: no"}
    told = overview(make_schedule(refused=refused, default_recipe="other", reasons=["other"]))
    assert '<p class="wrong">Left out: mine.toml: beta = &lt;9&gt; is refused</p>' in told
    assert "other.toml" not in told
