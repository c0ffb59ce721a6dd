"""What `make learn` keeps account of: cells, what is finished, votes, rounds, tables and the picture. No engine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.bench.learn.__main__ import chosen, is_finished
from tests.bench.learn.cells import BEST, CELLS, OTHERS, SMOKE, WITHOUT_KL, Cell, best_other, recipe_body, settled
from tests.bench.learn.curve import Line, bounds, draw, stretches_of
from tests.bench.learn.drift import rounds_of
from tests.bench.learn.place import environment, procfile
from tests.bench.learn.table import newest, reaches_aim, report
from tests.bench.learn.tastes import SHORT
from tests.bench.learn.user import Asked, append_line, read_asked, read_lines, statements
from tests.bench.learn.work import begun_first
from tests.demo.taste import Seen
from training.errors import RecipeRefused
from training.examples.batches import Item
from training.loops.experience import Experience, Part, save_experience

ROUND = {"round": 1, "answers": 8, "reward": 0.5, "taste": -40.0, "kl": 0.01, "pairs": 9, "agreement": 0.75}


def make_row(**changes: Any) -> dict[str, Any]:
    made = {
        "cell": "short:dpo",
        "taste": "short",
        "recipe": "dpo",
        "wrong": 0.0,
        "changes": {},
        "state": "done",
        "error": None,
        "wins": 0.75,
        "wins_low": 0.7,
        "wins_high": 0.8,
        "loss_base": 1.4,
        "loss": 1.45,
        "added_loss": 0.05,
        "kl": 0.03,
        "words_base": 48,
        "words": 25,
        "cut_off_base": 0.1,
        "cut_off": 0.0,
        "gate": "inconclusive",
        "seconds_job": 600,
        "rounds": [],
    }
    return {**made, **changes}


# Cells -----------------------------------------------------------------------------------------------------------
def test_every_cell_has_a_name_of_its_own_and_a_recipe_that_is_accepted() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS) == 19
    for cell in CELLS:
        if cell.recipe != "best":
            assert recipe_body(cell)["algorithm"]
            assert recipe_body(cell, SMOKE)["algorithm"]


def test_a_cells_changes_are_laid_over_the_shipped_recipe() -> None:
    shipped, changed = recipe_body(Cell("x", "short", "ppo")), recipe_body(WITHOUT_KL)
    assert (changed["kl_weight"], changed["rollouts"]["rounds"]) == (0.0, 30)
    assert changed["rollouts"]["prompts"] == shipped["rollouts"]["prompts"]
    with pytest.raises(RecipeRefused, match="beta"):
        recipe_body(Cell("x", "short", "ppo", changes={"beta": 1}))


def test_a_smoke_run_cuts_short_what_a_recipe_has() -> None:
    assert recipe_body(Cell("x", "short", "dpo"), SMOKE)["epochs"] == 1
    online = recipe_body(Cell("x", "short", "online_dpo"), SMOKE)
    assert (online["rollouts"]["rounds"], online["loss"]["epochs"]) == (2, 1)


def test_the_best_of_the_others_wins_most_at_little_added_loss() -> None:
    figures = {"kto": (0.7, 0.05), "online_dpo": (0.75, 0.05), "ppo": (0.9, 0.3), "grpo": (0.74, 0.0)}
    rows = [
        make_row(cell=f"{taste}:{recipe}", wins=wins, added_loss=added)
        for taste in ("short", "no_lists")
        for recipe, (wins, added) in figures.items()
    ]
    assert best_other(rows) == "online_dpo"
    assert best_other(rows[:-1]) is None, "grpo could still win more"
    assert best_other([*rows[:-1], {**rows[3], "added_loss": 0.2}]) == "online_dpo", "grpo added too much to win"
    assert best_other([]) is None
    assert best_other([{**row, "added_loss": 1.0} for row in rows]) == "ppo"
    assert best_other([*rows, {**rows[1], "state": "failed"}]) == "grpo"
    assert set(figures) == set(OTHERS)


def test_the_best_recipe_is_told_where_to_look_as_the_others_of_its_taste() -> None:
    [polite, flipped] = [cell for cell in CELLS if cell.recipe == BEST]
    assert settled(polite, []) is None
    for best in OTHERS:
        rows = [
            make_row(cell=f"{taste}:{recipe}", wins=0.9 if recipe == best else 0.6)
            for taste in ("short", "no_lists")
            for recipe in OTHERS
        ]
        cells = [settled(cell, rows) for cell in (polite, flipped)]
        assert [cell and cell.recipe for cell in cells] == [best, best]
        bodies = [recipe_body(cell) for cell in cells if cell]
        assert [body.get("reward", {}).get("pooling") for body in bodies] == (
            [None, None] if best == "kto" else ["mean", "last"]
        )


# What is finished ------------------------------------------------------------------------------------------------
def test_a_cell_with_a_row_is_not_run_again_but_for_a_failed_one_that_is_named(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    [dpo, kto, grpo] = [cell for cell in CELLS if cell.name in ("short:dpo", "short:kto", "short:grpo")]
    append_line(results, make_row())
    append_line(results, make_row(cell=kto.name, state="failed"))
    assert is_finished(dpo, results, None)
    assert is_finished(dpo, results, [dpo.name])
    assert is_finished(kto, results, None)
    assert not is_finished(kto, results, [kto.name])
    assert not is_finished(grpo, results, None)


def test_cells_whose_job_was_begun_come_first_the_others_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "short-grpo.json").touch()
    cells = chosen(["short:dpo", "short:kto", "short:grpo"])
    assert [cell.name for cell in begun_first(tmp_path, cells)] == ["short:grpo", "short:dpo", "short:kto"]


def test_a_line_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_line(path, {"a": 1})
    with path.open("a") as sink:
        sink.write('\n{"a": 2, "b')
    append_line(path, {"a": 3})
    assert [row["a"] for row in read_lines(path)] == [1, 3]
    assert read_lines(tmp_path / "none") == []


def test_cells_are_chosen_by_name_in_their_own_order() -> None:
    assert [cell.name for cell in chosen(["short:grpo", "short:dpo"])] == ["short:dpo", "short:grpo"]
    assert chosen(None) == list(CELLS)
    with pytest.raises(SystemExit, match="short:dbo"):
        chosen(["short:dbo"])


# Votes -----------------------------------------------------------------------------------------------------------
ASKED = Asked("Why?", ("t1", "t2"), (Seen("Because.", True), Seen("Cut", False)))


def test_a_verdict_is_a_comparison_or_a_thumb_for_each_answer() -> None:
    compared, thumbed = Cell("x", "short", "dpo"), Cell("x", "short", "kto", 0.2)
    [comparison] = statements(compared, ASKED, "second")
    assert (comparison["verdict"], comparison["source"], comparison["turn_ids"]) == (
        "second",
        "simulated",
        ["t1", "t2"],
    )
    assert [each["value"] for each in statements(thumbed, ASKED, "second")] == ["down", "up"]
    assert statements(thumbed, ASKED, "tie") == []
    assert statements(compared, ASKED, "tie")[0]["verdict"] == "tie"
    assert comparison["user"] != statements(thumbed, ASKED, "first")[0]["user"]


def test_what_was_asked_is_read_back(tmp_path: Path) -> None:
    row = {"question": "Why?", "turns": ["t1", "t2"], "seen": [vars(seen) for seen in ASKED.seen]}
    append_line(tmp_path / "asked.jsonl", row)
    assert read_asked(tmp_path / "asked.jsonl") == [ASKED]


# The place -------------------------------------------------------------------------------------------------------
def test_settings_from_elsewhere_do_not_reach_what_is_measured(tmp_path: Path) -> None:
    given = {"BURNISH_TRAINING_RECIPE": "kto", "BURNISH_HOME": "/elsewhere", "PATH": "/bin"}
    made = environment(tmp_path, None, {"REDIS": 1}, given)
    assert "BURNISH_TRAINING_RECIPE" not in made
    assert made["PATH"] == "/bin"
    assert made["BURNISH_HOME"] == str(tmp_path)
    assert made["BURNISH_GATE_ON_INCONCLUSIVE"] == "hold"


def test_the_pages_are_left_out(tmp_path: Path) -> None:
    names = [line.split(":")[0] for line in procfile(tmp_path).read_text().splitlines()]
    assert names == ["redis", "engine", "gateway", "worker", "beat"]


# Rounds ----------------------------------------------------------------------------------------------------------
def make_experience() -> Experience:
    """Two prompts with two answers each, of as many words as tokens; the second prompt's are rewarded the wrong way."""
    answers = (tuple(range(10)), tuple(range(30)))
    parts = tuple(Part(Item((1, 2), answers), group) for group in (0, 1))
    return Experience(
        parts=parts,
        reward_N=torch.tensor([1.0, 0.0, 0.0, 1.0]),
        cut_N=torch.tensor([0.0, 0.0, 0.0, 0.0]),
        old_S=torch.full((80,), 0.5),
        engine_S=torch.zeros(80),
        reference_S=torch.zeros(80),
        value_S=torch.zeros(80),
    )


def test_a_rounds_agreement_is_that_of_answers_to_one_prompt(tmp_path: Path) -> None:
    save_experience(tmp_path / "runs" / "v0001" / "round-0000.safetensors", make_experience(), {})
    [found] = rounds_of(tmp_path, SHORT, lambda ids: " ".join("word" for _ in ids))
    assert (found["round"], found["answers"], found["pairs"], found["agreement"]) == (1, 4, 2, 0.5)
    assert (found["reward"], found["taste"], found["kl"], found["words"]) == (0.5, -20.0, 0.5, 20.0)
    assert rounds_of(tmp_path / "none", SHORT, str) == []


# Tables and picture ----------------------------------------------------------------------------------------------
def test_the_report_shows_the_newest_row_of_each_cell_and_who_reaches_the_aim() -> None:
    rows = [
        make_row(cell="short:ppo", recipe="ppo", wins=0.9, added_loss=0.4, rounds=[ROUND, {**ROUND, "round": 2}]),
        make_row(wins=0.5),
        make_row(),
        make_row(cell="short:kto", recipe="kto", state="failed", error="it\ndiverged"),
        make_row(cell="short_flipped:dpo", wrong=0.2, changes={"rollouts": {"rounds": 3}}),
        make_row(cell="no_lists:ppo", taste="no_lists", recipe="ppo", changes={"reward": {"pooling": "mean"}}),
    ]
    text = report(rows)
    assert "| short | `dpo` | **0.75 [0.70, 0.80]** |" in text
    assert "| short | `ppo` | 0.90 [0.70, 0.80] |" in text
    assert "failed: it diverged" in text
    assert "| short, 20 % flipped | `dpo` with rollouts.rounds 3 |" in text
    assert "| no lists | `ppo` with reward.pooling mean |" in text
    assert "| short:ppo | – | 1 | 0.75 (9) |" in text
    assert text.index("`dpo`") < text.index("`kto`") < text.index("`ppo`")
    assert not reaches_aim(make_row(added_loss=0.11))
    assert len(newest(rows)) == 5
    assert all(line.count("|") == 10 for line in text.splitlines()[:5])


def test_the_picture_is_drawn_with_gaps_and_from_one_round(tmp_path: Path) -> None:
    rounds = [{**ROUND, "round": n, "agreement": None if n == 2 else 0.5} for n in range(1, 5)]
    for each in (rounds, rounds[:1]):
        draw(each, "PPO without KL", tmp_path / "docs" / "curve.png")
        with Image.open(tmp_path / "docs" / "curve.png") as image:
            assert image.size[0] == 760
            assert len(image.convert("RGB").getcolors(100_000) or ()) > 4


def test_thirds_of_the_rounds_are_taken_together_with_their_interval() -> None:
    shares = [0.75, 0.75, None, 0.5, 1.0]
    rounds = [{**ROUND, "pairs": 0 if each is None else 4, "agreement": each} for each in shares]
    first, second, third = stretches_of(rounds)
    assert [(each.first, each.last, each.value) for each in (first, second, third)] == [
        (0, 1, 0.75),
        (2, 3, 0.5),
        (4, 4, 1.0),
    ]
    assert (round(first.low, 3), round(first.high, 3)) == (0.349, 0.968), "6 of 8"
    assert stretches_of(rounds[2:3]) == []


def test_an_axis_has_round_ends_around_its_values() -> None:
    assert bounds(Line("x", [-63.0, -12.0], "red")) == (-65.0, -10.0)
    assert bounds(Line("x", [0.4, None, 0.6], "red", low=0.0, high=1.0)) == (0.0, 1.0)
    assert bounds(Line("x", [2.0, 2.0], "red")) == (2.0, 3.0)


def test_rows_are_plain_json(tmp_path: Path) -> None:
    append_line(tmp_path / "rows.jsonl", make_row(changes=WITHOUT_KL.changes))
    assert json.loads(tmp_path.joinpath("rows.jsonl").read_text().strip())["changes"]["kl_weight"] == 0.0
