"""Packs prompts with their answers into one unpadded stream of tokens per forward pass.

A prompt is read once and shared by its answers; only positions that predict an answer's tokens are scored.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from training.examples.tokens import TokenIds


@dataclass(frozen=True)
class Item:
    """One prompt and the answers to it that are to be scored (two for a pair, one for a sample)."""

    prompt: TokenIds
    answers: tuple[TokenIds, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True)
class Span:
    """Where one item lies in the stream: its prompt at [start, start + prompt), then its answers one after another."""

    start: int
    prompt: int
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """One forward pass over T tokens that scores S of them, in N answers.

    tokens_T, positions_T: the stream; every answer's positions go on from its prompt's end.
    rows_S: the position whose output predicts each scored token; targets_S: that token; answer_S: which of the N
    answers it belongs to, counted in the order of the items and their answers.
    """

    tokens_T: Tensor
    positions_T: Tensor
    rows_S: Tensor
    targets_S: Tensor
    answer_S: Tensor
    n_answers: int
    spans: tuple[Span, ...]

    def to(self, device: torch.device) -> "Pass":
        return replace(
            self,
            tokens_T=self.tokens_T.to(device),
            positions_T=self.positions_T.to(device),
            rows_S=self.rows_S.to(device),
            targets_S=self.targets_S.to(device),
            answer_S=self.answer_S.to(device),
        )

    def sum_answers(self, values_S: Tensor) -> Tensor:
        """[N] sums of a value per scored token over each answer."""
        return torch.zeros(self.n_answers, dtype=values_S.dtype, device=values_S.device).index_add(
            0, self.answer_S, values_S
        )

    def ends(self) -> Tensor:
        """[N] the place in the stream of each answer's last token."""
        places: list[int] = []
        for span in self.spans:
            first = span.start + span.prompt
            places += (first + end - 1 for end in accumulate(span.answers))
        return torch.tensor(places)

    def places(self) -> Tensor:
        """[S] the place in the stream of each scored token itself."""
        places: list[int] = []
        for span in self.spans:
            first = span.start + span.prompt
            places += range(first, first + sum(span.answers))
        return torch.tensor(places)

    def lengths(self) -> Tensor:
        """[N] scored tokens of each answer, as fp32."""
        return self.sum_answers(torch.ones_like(self.targets_S, dtype=torch.float32))


def make_pass(items: Sequence[Item]) -> Pass:
    """Lay items out one after another."""
    tokens: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    answer_of: list[int] = []
    spans: list[Span] = []
    n_answers = 0
    for item in items:
        if not item.prompt or not all(item.answers):
            raise ValueError("an item needs a prompt and answers of at least one token")
        start, n_prompt = len(tokens), len(item.prompt)
        tokens += item.prompt
        positions += range(n_prompt)
        for answer in item.answers:
            first = len(tokens)
            tokens += answer
            positions += range(n_prompt, n_prompt + len(answer))
            rows += [start + n_prompt - 1, *range(first, first + len(answer) - 1)]
            targets += answer
            answer_of += [n_answers] * len(answer)
            n_answers += 1
        spans.append(Span(start, n_prompt, tuple(map(len, item.answers))))
    return Pass(
        tokens_T=torch.tensor(tokens),
        positions_T=torch.tensor(positions),
        rows_S=torch.tensor(rows),
        targets_S=torch.tensor(targets),
        answer_S=torch.tensor(answer_of),
        n_answers=n_answers,
        spans=tuple(spans),
    )


def pack(lengths: Sequence[int], limit_tokens: int, limit_items: int) -> list[list[int]]:
    """Groups indices so that no group exceeds `limit_tokens` (one that is longer goes alone) or `limit_items`.

    Deterministic: the longest first, each filling the group it is in before the next is opened.
    """
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or lengths[index] > room or len(groups[-1]) == limit_items:
            groups.append([])
            room = limit_tokens
        groups[-1].append(index)
        room -= lengths[index]
    return groups


def group_steps(sizes: Iterable[int], least: int) -> list[tuple[int, int]]:
    """Ranges [from, to) of consecutive passes whose sizes reach `least` together; a short rest joins the last one."""
    ends = [0]
    gathered = count = 0
    for count, size in enumerate(sizes, start=1):
        gathered += size
        if gathered >= least:
            ends.append(count)
            gathered = 0
    if gathered:
        if len(ends) > 1 and gathered < least / 2:
            ends.pop()
        ends.append(count)
    return list(pairwise(ends))
