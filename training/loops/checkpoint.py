"""Checkpoints of a training run: adapter, optimizer and position, whole or not at all, never pickled.

A checkpoint is a folder that appears by a rename; its `position.json`, written last, names the digest of the tensors.
No random state is kept: a run draws each step's randomness from its seed and the step's number.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.base.convert import file_digest
from training.files import fsync_folder, read_json, write_json

_TENSORS = "state.safetensors"
_POSITION = "position.json"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """`step` is the number of optimizer steps done; the tensors are what they left. `first_loss` is the run's first."""

    step: int
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    first_loss: float = math.nan


class Checkpoints:
    """The checkpoints of one run in one folder. `run` names what is run (recipe, pairs); another run's are ignored."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep this one and the one before it; damaged ones and another run's make room for it."""
        final = self._folder / f"step-{checkpoint.step:06d}"
        if self._read(final) is not None:
            return
        aside = self._folder / f".{final.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tensors = {f"adapter/{k}": v for k, v in checkpoint.adapter.items()}
        tensors |= {f"optimizer/{k}": v for k, v in checkpoint.optimizer.items()}
        save_file(tensors, aside / _TENSORS)
        digest = file_digest(aside / _TENSORS)
        fsync_folder(aside)
        write_json(
            aside / _POSITION,
            {"step": checkpoint.step, "digest": digest, "run": self._run, "first_loss": checkpoint.first_loss},
        )
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        fsync_folder(self._folder, files=False)
        self._prune(final)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint of this run; damaged and foreign ones are passed over."""
        return next((found for folder in self._folders() if (found := self._read(folder)) is not None), None)

    def _prune(self, newest: Path) -> None:
        """Later steps than the newest's are damaged, or it would have gone on from them; or they are another run's."""
        own = [folder for folder in self._folders() if self._position(folder) is not None]
        kept = own[own.index(newest) :][:_KEPT]
        for folder in self._folders():
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Every checkpoint's, of whatever run; the newest first."""
        return sorted(self._folder.glob("step-*"), key=lambda folder: (len(folder.name), folder.name), reverse=True)

    def _position(self, folder: Path) -> dict[str, Any] | None:
        """What a checkpoint of this run says of itself; None for another's, and where it says nothing."""
        try:
            position = read_json(folder / _POSITION)
        except ValueError:  # damaged
            return None
        return position if isinstance(position, dict) and position.get("run") == self._run else None

    def _read(self, folder: Path) -> Checkpoint | None:
        """A checkpoint of this run; None for another's, and where its bytes are not those that were written."""
        position, path = self._position(folder), folder / _TENSORS
        if position is None or not path.exists() or file_digest(path) != position["digest"]:
            return None
        tensors = load_file(path)
        adapter, optimizer = _below("adapter/", tensors), _below("optimizer/", tensors)
        return Checkpoint(position["step"], adapter, optimizer, position["first_loss"])


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the optimizer's tensors as `moment/parameter`."""
    return {
        f"{moment}/{name}": value.detach().cpu().clone()
        for name, parameter in parameters.items()
        for moment, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    for key, value in state.items():
        moment, _, name = key.partition("/")
        parameter = parameters[name]
        device = value.device if moment == "step" else parameter.device
        optimizer.state[parameter][moment] = value.to(device).clone()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
