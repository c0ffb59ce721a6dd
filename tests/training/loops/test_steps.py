"""The steps every loop has in common: order, rate, divergence, too little memory."""

from pathlib import Path

import pytest
import torch

from training.algorithms import OptimizerRecipe
from training.errors import Diverged, OutOfMemory
from training.loops.steps import Run, Watch, learning_rate, plan_steps, train

QUIET = Watch(point=lambda point: None, progress=lambda share: None, stopping=lambda: False)


def make_run(folder: Path, **overrides: object) -> Run:
    fields = {"name": "run", "folder": folder, "optimizer": OptimizerRecipe(learning_rate=1e-2), "seed": 0}
    return Run(**{**fields, **overrides})


def make_parameters() -> dict[str, torch.nn.Parameter]:
    return {"w": torch.nn.Parameter(torch.tensor([1.0, 2.0]))}


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]), ("cosine", [0.5, 1, 1, 0.75, 0.25])],
)
def test_the_rate_warms_up_and_then_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    settings = OptimizerRecipe.model_validate({"learning_rate": 1e-3, "schedule": schedule, "warmup_share": 0.4})
    found = [learning_rate(settings, step, 5) for step in range(5)]
    assert found == pytest.approx([rate * 1e-3 for rate in rates])


def test_every_epoch_takes_all_passes_in_another_order() -> None:
    plan = plan_steps([2] * 12, epochs=3, least=4, seed=0)
    by_epoch = [[i for step in plan if step.epoch == epoch for i in step.passes] for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in by_epoch)
    assert len({tuple(order) for order in by_epoch}) == 3


def test_memory_that_runs_out_once_halves_the_passes_from_then_on(tmp_path: Path) -> None:
    parameters = make_parameters()
    asked: list[tuple[int, bool]] = []

    def learn(number: int, smaller: bool) -> dict[str, float]:
        asked.append((number, smaller))
        loss = parameters["w"].square().sum()
        loss.backward()
        if number == 1 and not smaller:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return {"loss": loss.item()}

    train(parameters, 3, learn, make_run(tmp_path), QUIET)
    assert asked == [(0, False), (1, False), (1, True), (2, True)]


def test_memory_that_runs_out_in_halves_too_stops_with_what_to_change(tmp_path: Path) -> None:
    def learn(number: int, smaller: bool) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match="pass_tokens"):
        train(make_parameters(), 3, learn, make_run(tmp_path), QUIET)


def test_other_errors_of_torch_are_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    def learn(number: int, smaller: bool) -> dict[str, float]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        train(make_parameters(), 3, learn, make_run(tmp_path), QUIET)


@pytest.mark.parametrize(
    ("losses", "says"),
    [((0.7, 11.0), "began at 0.7"), ((0.7, -11.0), "the loss is -11"), ((0.7, float("nan")), "loss is nan")],
)
def test_a_loss_that_runs_away_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, losses: tuple[float, float], says: str
) -> None:
    parameters = make_parameters()

    def learn(number: int, smaller: bool) -> dict[str, float]:
        parameters["w"].square().sum().backward()
        return {"loss": losses[number]}

    with pytest.raises(Diverged, match=says):
        train(parameters, 2, learn, make_run(tmp_path, every_s=0.0), QUIET)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
