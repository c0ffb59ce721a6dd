"""Checkpoints: the newest whole one of a run is found again, damaged and foreign ones make room."""

from pathlib import Path

import pytest
import torch

from training.loops.checkpoint import Checkpoint, Checkpoints


def make_checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((2,), float(step))}, {"exp_avg/w": torch.zeros(2)}, first_loss=0.7)


def saved(folder: Path, *steps: int, run: str = "mine") -> Checkpoints:
    kept = Checkpoints(folder, run)
    for step in steps:
        kept.save(make_checkpoint(step))
    return kept


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def newest_step(kept: Checkpoints) -> int | None:
    found = kept.newest()
    if found is None:
        return None
    assert found.adapter["w"].tolist() == [found.step] * 2
    return found.step


def damage(folder: Path, step: int, file: str = "state.safetensors") -> None:
    path = folder / f"step-{step:06d}" / file
    path.write_bytes(path.read_bytes()[:-3])


def test_the_newest_is_found_again_and_the_one_before_it_is_kept(tmp_path: Path) -> None:
    kept = saved(tmp_path, 1, 2, 3)
    assert newest_step(kept) == 3
    assert steps_in(tmp_path) == [2, 3]


def test_steps_are_ordered_by_number_however_many_there_are(tmp_path: Path) -> None:
    kept = saved(tmp_path, 999_998, 999_999, 1_000_000)
    assert newest_step(kept) == 1_000_000
    assert steps_in(tmp_path) == [999_999, 1_000_000]


@pytest.mark.parametrize("file", ["state.safetensors", "position.json"])
def test_a_damaged_checkpoint_is_passed_over_and_replaced_by_the_same_step(tmp_path: Path, file: str) -> None:
    kept = saved(tmp_path, 1, 2)
    damage(tmp_path, 2, file)
    assert newest_step(kept) == 1
    kept.save(make_checkpoint(2))
    assert newest_step(kept) == 2


def test_a_whole_checkpoint_of_the_same_step_stays_as_it_is(tmp_path: Path) -> None:
    kept = saved(tmp_path, 1)
    path = tmp_path / "step-000001" / "state.safetensors"
    before = path.stat().st_ino
    kept.save(make_checkpoint(1))
    assert path.stat().st_ino == before


def test_later_steps_that_are_damaged_do_not_crowd_out_what_is_saved_after_them(tmp_path: Path) -> None:
    saved(tmp_path, 8, 9)
    damage(tmp_path, 8)
    damage(tmp_path, 9)
    kept = saved(tmp_path, 1, 2)
    assert newest_step(kept) == 2
    assert steps_in(tmp_path) == [1, 2]


def test_another_runs_later_steps_make_room_for_this_runs(tmp_path: Path) -> None:
    saved(tmp_path, 8, 9, run="other recipe")
    kept = Checkpoints(tmp_path, "mine")
    assert newest_step(kept) is None
    kept.save(make_checkpoint(1))
    assert newest_step(kept) == 1
    assert steps_in(tmp_path) == [1]


def test_another_runs_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 1, run="other recipe")
    assert newest_step(saved(tmp_path, 1)) == 1
