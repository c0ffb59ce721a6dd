"""The training loop of on-policy preference rounds: answer, reward, form pairs, learn, repeat. Straight to read.

Each round goes on from where the one before it ended, on people's votes and its own pairs. The reference is the base.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from training.algorithms import OnlinePreferenceRecipe
from training.base.model import SharedBase
from training.errors import TooFewPairs
from training.examples.example import TokenPair
from training.examples.tokens import TokenIds
from training.loops.experience import (
    Experience,
    Scorer,
    Scoring,
    check_engine,
    gather,
    load_experience,
    save_experience,
)
from training.loops.preference import train_preference
from training.loops.reference import REFERENCE
from training.loops.steps import POLICY, Watch
from training.losses.policy_gradient import kl_estimate
from training.sampling.forming import form_pairs, mix
from training.sampling.rollouts import Rollouts
from training.tensor_files import write_tensors

LEARNED = "learned.safetensors"
"""The file of the adapter as the last round left it, in the run's folder."""


def train_online_preference(
    model: SharedBase,
    votes: Sequence[TokenPair],
    recipe: OnlinePreferenceRecipe,
    rollouts: Rollouts,
    reward: Scorer,
    folder: Path,
    watch: Watch,
    *,
    every_s: float = 20,
) -> None:
    """Train the adapter POLICY in rounds, checkpointing into `folder` at least `every_s` seconds apart.

    Raises what `train_preference` and the rollouts fail with, EngineMismatch, TooFewPairs when a round has nothing to
    learn from, or Stopped when `watch` says so.
    """
    model.add_adapter(POLICY, recipe.adapter, seed=recipe.seed)
    rounds = recipe.rollouts.rounds
    learned = read_learned(folder)
    if learned.rounds:
        model.set_adapter_state(POLICY, load_file(folder / LEARNED))
    steps = learned.steps
    for number in range(learned.rounds, rounds):
        state = model.adapter_state(POLICY)
        own = experience_of(number, state, model, recipe, rollouts, reward, folder, watch)
        again, pairs = mix(votes, form_pairs(by_prompt(own), recipe, number), recipe.votes_share)
        if not (again or pairs):
            raise TooFewPairs(
                f"round {number + 1} gave no pair to learn from: its answers are equal or rewarded alike; "
                "lower least_margin, ask for more answers, or let votes_share be above 0"
            )
        part = watch.between(number / rounds, (number + 1) / rounds)
        steps += train_preference(
            model,
            pairs,
            recipe.loss.model_copy(update={"seed": recipe.seed + number}),
            folder / f"round-{number:04d}",
            telling(part, steps, {"round": number + 1, **facts(own)}),
            every_s=every_s,
            start=state,
            again=again,
            reference=folder / REFERENCE,
        )
        model.crew.first(partial(keep, folder, model.adapter_state(POLICY), Learned(number + 1, steps)))


@dataclass(frozen=True)
class Learned:
    """How many rounds the kept adapter has learned from, in how many steps."""

    rounds: int = 0
    steps: int = 0


def read_learned(folder: Path) -> Learned:
    """How far the run has come; not at all where nothing is kept."""
    if not (folder / LEARNED).exists():
        return Learned()
    with safe_open(folder / LEARNED, "pt") as kept:
        return Learned(**{name: int(value) for name, value in kept.metadata().items()})


def keep(folder: Path, state: Mapping[str, Tensor], learned: Learned) -> None:
    """What a round has made of the adapter, in the place of what the round before it had; its checkpoints go."""
    write_tensors(folder / LEARNED, state, {name: str(value) for name, value in asdict(learned).items()})
    shutil.rmtree(folder / f"round-{learned.rounds - 1:04d}", ignore_errors=True)


def experience_of(
    number: int,
    state: Mapping[str, Tensor],
    model: SharedBase,
    recipe: OnlinePreferenceRecipe,
    rollouts: Rollouts,
    reward: Scorer,
    folder: Path,
    watch: Watch,
) -> Experience:
    """The answers of a round with their rewards, from what was kept of it where there is something."""
    path = folder / f"round-{number:04d}.safetensors"

    def make() -> None:
        if path.exists():
            return
        rollouts.begin(number, state)
        scoring = Scoring(model, POLICY, None, reward, recipe.loss.pass_tokens)
        experience = gather(rollouts.groups(number), scoring, watch)
        check_engine(experience, recipe.rollouts.max_engine_gap)
        save_experience(path, experience, {})

    model.crew.first(make)
    return load_experience(path)[0]


def by_prompt(experience: Experience) -> list[tuple[TokenIds, list[TokenIds], list[float]]]:
    """Each prompt of a round with its answers and their rewards."""
    rewards = iter(experience.reward_N.tolist())
    found: dict[int, tuple[TokenIds, list[TokenIds], list[float]]] = {}
    for part in experience.parts:
        _, answers, own = found.setdefault(part.group, (part.item.prompt, [], []))
        for answer in part.item.answers:
            answers.append(answer)
            own.append(next(rewards))
    return [found[group] for group in sorted(found)]


def facts(experience: Experience) -> dict[str, float]:
    """What a round's curve points say of its answers."""
    return {
        "reward_mean": float(experience.reward_N.mean()),
        "reward_spread": float(experience.reward_N.std(unbiased=False)),
        "kl": float(kl_estimate(experience.old_S, experience.reference_S).mean()),
        "cut_off": float(experience.cut_N.mean()),
    }


def telling(watch: Watch, steps_before: int, facts: Mapping[str, float]) -> Watch:
    """A round's watch: its points carry the round's facts, and their steps go on from the rounds before."""

    def point(each: Mapping[str, float]) -> None:
        watch.point({**each, **facts, "step": steps_before + each["step"]})

    return replace(watch, point=point)
