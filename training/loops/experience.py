"""One round of the policy's own answers, with all that is learned from them: made once, kept, the same when resumed.

N answers with S tokens in all lie one after another, in the order of `parts`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.base.model import SharedBase
from training.errors import EngineMismatch
from training.examples.batches import Item, make_pass
from training.examples.tokens import TokenIds
from training.loops.steps import Watch, halved_for_memory
from training.rewards.reward_model import Answered
from training.sampling.gateway import Sample
from training.sampling.rollouts import Group
from training.tensor_files import write_tensors

CLEARLY_OFF = 0.05
"""Nats a token that one answer's log-probs lie off by for another reason than bf16 (0.01 to 0.02 is usual)."""

Scorer = Callable[[Sequence[Answered]], Sequence[float]]
"""Says how good answers are, in nats."""


@dataclass(frozen=True)
class Part:
    """Answers to one prompt that go through the model together; `group` is the prompt's place in the round."""

    item: Item
    group: int


@dataclass(frozen=True)
class Experience:
    """Answers and what was said of them before anything was learned from them.

    reward_N: the reward model's, in nats; cut_N: 1 for an answer that met its length limit. Log-probs (nats) of every
    token: old_S by the policy that answered, as training computes it; engine_S as the engine said; reference_S by the
    base. value_S: the value adapter's, zeros without one.
    """

    parts: tuple[Part, ...]
    reward_N: Tensor
    cut_N: Tensor
    old_S: Tensor
    engine_S: Tensor
    reference_S: Tensor
    value_S: Tensor

    @property
    def groups(self) -> Tensor:
        """[N] the prompt that each answer belongs to, by its place in the round."""
        return torch.tensor([part.group for part in self.parts for _ in part.item.answers])

    @property
    def lengths(self) -> Tensor:
        """[N] tokens of each answer."""
        return torch.tensor([len(answer) for part in self.parts for answer in part.item.answers])

    def per_token(self, values_N: Tensor) -> Tensor:
        """[S] an answer's value at each of its tokens."""
        return values_N.repeat_interleave(self.lengths)

    def per_answer(self, values_S: Tensor) -> Tensor:
        """[N] sums over each answer."""
        owner_S = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)
        return torch.zeros(len(self.lengths), dtype=values_S.dtype).index_add(0, owner_S, values_S)


@dataclass(frozen=True)
class Scoring:
    """Who scores a round: the model with the adapters that answered and that value (None: nobody), the rewards."""

    model: SharedBase
    policy: str
    value: str | None
    reward: Scorer
    pass_tokens: int


class NoRollouts:
    """For a process that learns from what another one sampled."""

    def begin(self, number: int, state: Mapping[str, Tensor]) -> None:
        raise AssertionError(f"round {number} is another process's to sample")

    def groups(self, number: int) -> Iterator[Group]:
        raise AssertionError(f"round {number} is another process's to sample")


def no_scorer(asked: Sequence[Answered]) -> Sequence[float]:
    """For a process that learns from what another one scored."""
    raise AssertionError(f"{len(asked)} answers are another process's to score")


def gather(groups: Iterable[Group], scoring: Scoring, watch: Watch) -> Experience:
    """Score groups as they come, while the engine answers the others; in the prompts' order in the end."""
    scored: dict[int, list[tuple[Part, Mapping[str, Tensor]]]] = defaultdict(list)
    smaller = False
    for together in passes_of(groups, scoring.pass_tokens):
        watch.check("while answers were scored")
        score = partial(_score_in_memory, together, scoring)
        if scoring.model.crew.shards is not None:
            found = scoring.model.crew.in_one_piece(partial(score, halved=False))
        else:
            found, smaller = halved_for_memory(score, smaller, "a pass of answers that are scored")
        for part, columns in found:
            scored[part.group].append((part, columns))
    flat = [each for place in sorted(scored) for each in scored[place]]
    columns = {name: torch.cat([values[name] for _, values in flat]) for name in flat[0][1]}
    return Experience(tuple(part for part, _ in flat), **columns)


@dataclass(frozen=True)
class Sampled:
    """A part with its samples, in the order of its answers."""

    part: Part
    samples: tuple[Sample, ...]


def passes_of(groups: Iterable[Group], pass_tokens: int) -> Iterator[list[Sampled]]:
    """The parts of groups in the order in which they come, each pass as soon as the next part has no room in it."""
    waiting: list[Sampled] = []
    room = pass_tokens
    for group in groups:
        for each in split(group, pass_tokens):
            if waiting and each.part.item.n_tokens > room:
                yield waiting
                waiting, room = [], pass_tokens
            waiting.append(each)
            room -= each.part.item.n_tokens
    if waiting:
        yield waiting


def split(group: Group, pass_tokens: int) -> list[Sampled]:
    """A group in parts that keep to the length of a pass; one answer at least in each."""
    parts: list[list[Sample]] = []
    room = 0
    for sample in group.samples:
        if not parts or len(sample.token_ids) > room:
            parts.append([])
            room = pass_tokens - len(group.prompt)
        parts[-1].append(sample)
        room -= len(sample.token_ids)
    return [
        Sampled(Part(Item(group.prompt, tuple(sample.token_ids for sample in own)), group.place), tuple(own))
        for own in parts
    ]


def halves(together: Sequence[Sampled]) -> list[list[Sampled]]:
    """The same answers in two passes, where there are two."""
    if len(together) > 1:
        middle = len(together) // 2
        return [list(together[:middle]), list(together[middle:])]
    (own,) = together
    middle, answers = len(own.samples) // 2, own.part.item.answers
    if not middle:
        return [[own]]
    return [
        [Sampled(Part(Item(own.part.item.prompt, answers[cut]), own.part.group), own.samples[cut])]
        for cut in (slice(None, middle), slice(middle, None))
    ]


def _score_in_memory(
    together: Sequence[Sampled], scoring: Scoring, halved: bool
) -> list[tuple[Part, Mapping[str, Tensor]]]:
    """The parts of a pass with what it tells of each, in one pass or in two."""
    return [
        (own.part, columns)
        for each in (halves(together) if halved else [together])
        for own, columns in zip(each, _score(each, scoring), strict=True)
    ]


def _score(together: Sequence[Sampled], scoring: Scoring) -> list[dict[str, Tensor]]:
    """What one pass tells of each of its parts."""
    model, items = scoring.model, [own.part.item for own in together]
    batch = make_pass(items)
    with torch.no_grad():
        with model.policy(scoring.policy):
            old_S = model.logprobs(batch).cpu()
        with model.policy(None):
            reference_S = model.logprobs(batch).cpu()
        value_S = model.token_values(scoring.value, batch).cpu() if scoring.value else torch.zeros_like(old_S)
    rewards = scoring.reward([Answered(item.prompt, answer) for item in items for answer in item.answers])
    answers = [len(item.answers) for item in items]
    tokens = [sum(map(len, item.answers)) for item in items]
    columns = {
        "reward_N": torch.tensor(list(rewards)).split(answers),
        "old_S": old_S.split(tokens),
        "reference_S": reference_S.split(tokens),
        "value_S": value_S.split(tokens),
    }
    return [
        {
            **{name: column[i] for name, column in columns.items()},
            "cut_N": torch.tensor([float(sample.finish_reason == "length") for sample in own.samples]),
            "engine_S": torch.tensor([logprob for sample in own.samples for logprob in sample.logprobs]),
        }
        for i, own in enumerate(together)
    ]


def engine_gap(experience: Experience) -> float:
    """Mean nats a token by which the engine's log-probs lie off those of the policy that should have answered."""
    return float((experience.old_S - experience.engine_S).abs().mean())


def check_engine(experience: Experience, most: float) -> float:
    """The gap. EngineMismatch when it is more than `most`, or when the base explains the answers much better.

    An engine that answered from another version, the base above all, shows here: no name can be wrong in a log-prob.
    """
    gap = engine_gap(experience)
    if stray := answers_of_base(experience):
        raise EngineMismatch(
            f"{stray} of {len(experience.lengths)} answers have the base's log-probs, not those of the policy that was "
            "to answer: a replica of the engine answered without the adapter"
        )
    by_base = float((experience.reference_S - experience.engine_S).abs().mean())
    moved = float((experience.old_S - experience.reference_S).abs().mean())
    if by_base < moved / 2 < gap:
        raise EngineMismatch(
            f"the engine's log-probs lie {by_base:.3f} nats a token off the base's and {gap:.3f} off those of the "
            "policy that was to answer: it answered without the adapter"
        )
    if not gap <= most:  # none at all, too
        raise EngineMismatch(
            f"the engine's log-probs lie {gap:.3f} nats a token off those of the policy that was to answer, {most:g} "
            f"are allowed (rollouts.max_engine_gap); it answered from another version, or computes differently"
        )
    return gap


def answers_of_base(experience: Experience) -> int:
    """How many answers the base explains and the policy does not; 0 where they are so few that noise may explain them.

    A replica that lost the adapter answers a part of a round: the mean over the round need not show it.
    """
    lengths_N = experience.lengths

    def mean(values_S: Tensor) -> Tensor:
        return experience.per_answer(values_S.abs()) / lengths_N

    gap_N = mean(experience.old_S - experience.engine_S)
    by_base_N = mean(experience.reference_S - experience.engine_S)
    moved_N = mean(experience.old_S - experience.reference_S)
    found = int(((by_base_N < moved_N / 2) & (moved_N / 2 < gap_N) & (gap_N > CLEARLY_OFF)).sum())
    return found if found >= max(2, len(lengths_N) / 10) else 0


def save_experience(path: Path, experience: Experience, more: Mapping[str, Tensor]) -> None:
    """Keep a round, whole or not at all; `more` are tensors of the caller's own."""
    items = [part.item for part in experience.parts]
    kept = {
        "groups": torch.tensor([part.group for part in experience.parts]),
        "prompt_lengths": torch.tensor([len(item.prompt) for item in items]),
        "answers": torch.tensor([len(item.answers) for item in items]),
        "answer_lengths": experience.lengths,
        "prompt_ids": torch.tensor([token for item in items for token in item.prompt]),
        "answer_ids": torch.tensor([token for item in items for answer in item.answers for token in answer]),
        **{name: getattr(experience, name).contiguous() for name in _COLUMNS},
        **{f"more/{name}": tensor for name, tensor in more.items()},
    }
    write_tensors(path, kept)


def load_experience(path: Path) -> tuple[Experience, dict[str, Tensor]]:
    """A kept round, and the tensors that were kept with it."""
    kept = load_file(path)
    prompts = _cut(kept["prompt_ids"], kept["prompt_lengths"])
    answers = _cut(kept["answer_ids"], kept["answer_lengths"])
    parts, first = [], 0
    for prompt, n, group in zip(prompts, kept["answers"].tolist(), kept["groups"].tolist(), strict=True):
        parts.append(Part(Item(prompt, tuple(answers[first : first + n])), group))
        first += n
    more = {name.removeprefix("more/"): tensor for name, tensor in kept.items() if name.startswith("more/")}
    return Experience(tuple(parts), **{name: kept[name] for name in _COLUMNS}), more


_COLUMNS = ("reward_N", "cut_N", "old_S", "engine_S", "reference_S", "value_S")


def _cut(ids: Tensor, lengths: Tensor) -> list[TokenIds]:
    return [tuple(part.tolist()) for part in ids.split(lengths.tolist())]
