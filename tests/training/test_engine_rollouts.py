"""Rounds of GRPO on the real engine behind the real gateway: who answered, and that its log-probs are the trainer's."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from feedback.policies import PolicyState
from tests.services import Engine, Gateway, start_gateway
from tests.training.attempts import make_attempt
from tests.training.loops.notes import Notes
from training.algorithms import GrpoRecipe
from training.base.loading import load_chat_tokens
from training.base.model import SharedBase
from training.loops.policy_gradient import train_policy_gradient
from training.publishing.publish import Origin
from training.recipe import parse_recipe
from training.rewards.reward_model import Answered
from training.sampling.rollouts import Asked, EngineRollouts
from training.worker.attempt import Attempt

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPTS = [({"role": "user", "content": text},) for text in ("What is tea?", "Why do cats sleep?")]


@pytest.fixture
def gateway(engine: Engine, redis_url: str) -> Iterator[Gateway]:
    with start_gateway(engine.home, redis_url, engine.url, model=engine.model_path) as started:
        yield started


@pytest.fixture
def attempt(gateway: Gateway, model_dir: Path) -> Attempt:
    return make_attempt(gateway, model_dir, "grpo", f"rounds {time.time()}")


def by_token_numbers(asked: Sequence[Answered]) -> list[float]:
    """A reward with a spread, whatever is answered."""
    return [-float(sum(token % 7 for token in each.answer)) / len(each.answer) for each in asked]


def test_the_policy_in_training_answers_each_round_under_a_version_of_its_own(
    attempt: Attempt, gateway: Gateway, model_dir: Path
) -> None:
    recipe = parse_recipe(
        {
            "algorithm": "grpo",
            "epochs": 1,
            "minibatches": 1,
            "rollouts": {"rounds": 3, "prompts": 2, "answers": 3, "max_tokens": 16},
            "optimizer": {"learning_rate": 2e-3, "warmup_share": 0, "schedule": "constant"},
        }
    )
    assert isinstance(recipe, GrpoRecipe)
    base, tokens = SharedBase(model_dir, torch.device("cpu")), load_chat_tokens(model_dir)
    origin = Origin(
        attempt.registry.reserve(attempt.claim), attempt.job.base_digest, attempt.job.id, "grpo", recipe.adapter
    )
    rollouts = EngineRollouts(attempt, base, tokens, Asked(PROMPTS, recipe.rollouts, 0), origin)
    notes = Notes()
    train_policy_gradient(base, recipe, rollouts, by_token_numbers, attempt.folder / "runs", notes.watch())
    assert [point["round"] for point in notes.points] == [1, 2, 3]
    assert all(point["engine_gap"] < 0.1 for point in notes.points), [point["engine_gap"] for point in notes.points]
    assert notes.points[-1]["kl"] > 0.01, "the last round's policy had moved"
    rows = list((attempt.folder / "rollouts").iterdir())
    assert sorted(path.name.split("-")[0] for path in rows) == ["v0000", *["v" + f"{origin.counter:04d}"] * 2]
    states = [policy.state for policy in attempt.registry.view().policies.values()]
    assert states.count(PolicyState.rollout) == 1, "those of the rounds before have left the engine"
    rollouts.end()
    assert PolicyState.rollout not in [policy.state for policy in attempt.registry.view().policies.values()]
