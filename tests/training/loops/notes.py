"""Takes down what a run tells, and stops it where it is told to."""

from collections.abc import Mapping

import torch

from training.loops.steps import Watch


class Notes:
    """Takes down what a run tells; asks it to stop at the `stop_at`-th look (from 0)."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.points: list[dict[str, float]] = []
        self._looks = -1
        self._stop_at = stop_at

    def watch(self) -> Watch:
        return Watch(point=self._take, progress=lambda share: None, stopping=self._stopping)

    def _take(self, point: Mapping[str, float]) -> None:
        self.points.append(dict(point))

    def _stopping(self) -> bool:
        self._looks += 1
        return self._looks == self._stop_at


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
