"""What both sides of a comparison share: what they are given, what they learned, and when that is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from training.algorithms import AdapterRecipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.loops.steps import POLICY, Watch

QUIET = Watch(point=lambda point: None, progress=lambda share: None, stopping=lambda: False)
ADAPTER = AdapterRecipe(rank=8, alpha=16)


@dataclass(frozen=True)
class Setting:
    """What both sides are given beside examples: the base, the adapter's tensors, and a folder to write to."""

    model: Path
    state: Mapping[str, Tensor]
    folder: Path

    def base(self) -> SharedBase:
        """Our model, without an adapter."""
        return SharedBase(self.model, torch.device("cpu"), FP32)


@dataclass(frozen=True)
class Learned:
    """What a batch taught: its loss, and the gradients of what is trained, by the tensors' names in our files."""

    loss: float
    gradients: Mapping[str, Tensor]

    def minus(self, other: "Learned") -> "Learned":
        """The difference of two losses and of their gradients."""
        return Learned(
            self.loss - other.loss, {name: self.gradients[name] - other.gradients[name] for name in self.gradients}
        )

    def flat(self) -> Tensor:
        return torch.cat([self.gradients[name].flatten() for name in sorted(self.gradients)])


def moved_state(model: Path, seed: int, *, spread: float = 0.2) -> dict[str, Tensor]:
    """An adapter's tensors, away from its start: there B is zero, and so is A's gradient."""
    base = SharedBase(model, torch.device("cpu"), FP32)
    base.add_adapter(POLICY, ADAPTER, seed=0)
    chance = torch.Generator().manual_seed(seed)
    return {
        name: spread * torch.randn(tensor.shape, generator=chance)
        for name, tensor in base.adapter_state(POLICY).items()
    }


def learned(loss: float, parameters: Mapping[str, torch.nn.Parameter]) -> Learned:
    """What the gradients in `parameters` say was learned."""
    return Learned(loss, {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})


def assert_same(ours: Learned, theirs: Learned) -> None:
    """The loss within 1e-4, the gradients' cosine at least 0.9999 and their norms within a thousandth."""
    assert ours.gradients.keys() == theirs.gradients.keys()
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
    one, other = ours.flat().double(), theirs.flat().double()
    assert one.norm() > 1e-3
    assert one.norm().item() == pytest.approx(other.norm().item(), rel=1e-3)
    assert cosine_similarity(one, other, dim=0) >= 0.9999
