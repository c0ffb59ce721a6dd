"""The losses of sampled answers against TRL's, from rewards to gradients: the same adapters, the same answers, in fp32.

Ours are the pure functions put together, on log-probs of a packed pass with shared prompts. TRL 1.16 has no PPO: its
surrogate alone is compared, its advantages and values are left to numbers worked out by hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.training.oracle.compare import ADAPTER, Learned, Setting, assert_same, learned
from tests.training.oracle.peer_sampling import Samples, learn_samples
from training.algorithms import GrpoRecipe
from training.base.model import SharedBase
from training.examples.batches import Item, Pass, make_pass
from training.examples.tokens import ChatTokens
from training.loops.policy_gradient import Lesson, learn_lesson
from training.loops.steps import POLICY
from training.losses.policy_gradient import (
    Clip,
    advantages_and_returns,
    clipped_share,
    clipped_surrogate,
    group_relative,
    kl_estimate,
    leave_one_out,
    token_rewards,
    truncated_importance,
)
from training.recipe import parse_recipe

pytestmark = pytest.mark.slow

CLIP = Clip(low=0.2, high=0.3)
BETA = 0.15
MOST_TOKENS = 40
MOST_IMPORTANCE = 1.5

# TRL's options.
BOUNDS = {"epsilon": CLIP.low, "epsilon_high": CLIP.high}
PLAIN_KL = {"use_bias_correction_kl": False}

# How the terms of S tokens become one loss.
MEANS: dict[str, Callable[[Tensor, Pass], Tensor]] = {
    "grpo": lambda loss_S, batch: (batch.sum_answers(loss_S) / batch.lengths()).mean(),
    "dapo": lambda loss_S, batch: loss_S.mean(),
    "dr_grpo": lambda loss_S, batch: loss_S.sum() / (batch.n_answers * MOST_TOKENS),
}


@dataclass(frozen=True)
class Told:
    """What the losses are told of S tokens: their log-probs now, when they were sampled, and under the reference."""

    batch: Pass
    logprob_S: Tensor
    old_S: Tensor
    reference_S: Tensor


@pytest.fixture
def samples(setting: Setting, tiny_tokens: ChatTokens) -> Samples:
    """Three answers to each of two prompts, of different lengths, sampled a little before now."""
    said = {
        "Name a fruit.": ("A pear.", "I would rather not say.", "Plum"),
        "Why?": ("Because it rains.", "No.", "Who knows, who cares?"),
    }
    return Samples(
        prompts=tuple(tiny_tokens.prompt([{"role": "user", "content": ask}]) for ask in said),
        answers=tuple(tuple(map(tiny_tokens.answer, answers)) for answers in said.values()),
        reward_N=torch.tensor([-0.5, 2.0, 0.25, 1.0, 2.5, -1.0]),
        old=nudged(setting.state, 0.02),
    )


def nudged(state: Mapping[str, Tensor], spread: float) -> dict[str, Tensor]:
    """An adapter close by."""
    chance = torch.Generator().manual_seed(11)
    return {name: tensor + spread * torch.randn(tensor.shape, generator=chance) for name, tensor in state.items()}


def tell(base: SharedBase, setting: Setting, samples: Samples) -> Told:
    """One pass over all answers under each of the three; gradients flow to the adapter through the first."""
    batch = make_pass([Item(prompt, group) for prompt, group in zip(samples.prompts, samples.answers, strict=True)])
    with torch.no_grad(), base.policy(None):
        reference_S = base.logprobs(batch)
    base.add_adapter(POLICY, ADAPTER, seed=0)
    base.set_adapter_state(POLICY, samples.old)
    with torch.no_grad(), base.policy(POLICY):
        old_S = base.logprobs(batch)
    base.set_adapter_state(POLICY, setting.state)
    with base.policy(POLICY):
        return Told(batch, base.logprobs(batch), old_S, reference_S)


def learn_ours(setting: Setting, samples: Samples, loss_of: Callable[[Told], Tensor]) -> Learned:
    """One gradient step on all answers."""
    base = setting.base()
    loss = loss_of(tell(base, setting, samples))
    loss.backward()
    return learned(loss.item(), base.parameters(POLICY))


def some(share: Tensor) -> bool:
    """Whether it is some of them, not none and not all."""
    return 0 < float(share.float().mean()) < 1


@pytest.mark.parametrize("loss_type", MEANS)
@pytest.mark.parametrize(("by_spread", "scale_rewards"), [(True, "group"), (False, "none")])
def test_grpo_with_a_kl_term_is_trls(
    setting: Setting, samples: Samples, loss_type: str, by_spread: bool, scale_rewards: str
) -> None:
    def loss_of(told: Told) -> Tensor:
        advantage_N = group_relative(samples.reward_N, samples.groups(), by_spread=by_spread)
        advantage_S = advantage_N[told.batch.answer_S]
        assert some(clipped_share(told.logprob_S, told.old_S, advantage_S, CLIP))
        loss_S = clipped_surrogate(told.logprob_S, told.old_S, advantage_S, CLIP)
        return MEANS[loss_type](loss_S + BETA * kl_estimate(told.logprob_S, told.reference_S), told.batch)

    options = {"loss_type": loss_type, "scale_rewards": scale_rewards, "max_completion_length": MOST_TOKENS}
    theirs = learn_samples("grpo", setting, samples, beta=BETA, **PLAIN_KL, **options, **BOUNDS)
    assert_same(learn_ours(setting, samples, loss_of), theirs)


def test_the_loops_own_step_of_grpo_is_trls_default(setting: Setting, samples: Samples) -> None:
    # Its KL is weighed by the ratio, as in DeepSeek-V3.2 (arXiv 2512.02556); plain in the test above, as in GRPO.
    recipe = parse_recipe({"algorithm": "grpo", "clip_low": CLIP.low, "clip_high": CLIP.high})
    assert isinstance(recipe, GrpoRecipe)
    base = setting.base()
    told = tell(base, setting, samples)
    columns = {
        "old_S": told.old_S,
        "engine_S": told.old_S,
        "reference_S": told.reference_S,
        "advantage_S": group_relative(samples.reward_N, samples.groups())[told.batch.answer_S],
    }
    n_tokens = len(told.old_S)
    sizes = [sum(map(len, group)) for group in samples.answers]
    total = 0.0
    for i, (prompt, group) in enumerate(zip(samples.prompts, samples.answers, strict=True)):
        lesson = Lesson((Item(prompt, group),), {name: column.split(sizes)[i] for name, column in columns.items()})
        total += float(learn_lesson(base, lesson, BETA, recipe, n_tokens)["loss"].sum()) / n_tokens
    theirs = learn_samples("grpo", setting, samples, loss_type="dapo", beta=BETA, **BOUNDS)
    assert_same(learned(total, base.parameters(POLICY)), theirs)


def test_weights_for_what_the_engine_said_are_trls_token_truncation(setting: Setting, samples: Samples) -> None:
    # TRL's default leaves out whole answers instead. The KL term has no such weight.
    old_S = tell(setting.base(), setting, samples).old_S
    chance = torch.Generator().manual_seed(5)
    engine_S = old_S + 0.5 * torch.randn(old_S.shape, generator=chance)

    def loss_of(told: Told) -> Tensor:
        advantage_N = group_relative(samples.reward_N, samples.groups())
        weight_S = truncated_importance(told.old_S, engine_S, MOST_IMPORTANCE)
        assert some(weight_S == MOST_IMPORTANCE)
        loss_S = weight_S * clipped_surrogate(told.logprob_S, told.old_S, advantage_N[told.batch.answer_S], CLIP)
        return MEANS["dapo"](loss_S + BETA * kl_estimate(told.logprob_S, told.reference_S), told.batch)

    truncation = {
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": MOST_IMPORTANCE,
    }
    samples = replace(samples, engine_S=engine_S)
    theirs = learn_samples("grpo", setting, samples, loss_type="dapo", beta=BETA, **truncation, **PLAIN_KL, **BOUNDS)
    assert_same(learn_ours(setting, samples, loss_of), theirs)


def test_rloo_with_the_kl_in_its_rewards_is_trls(setting: Setting, samples: Samples) -> None:
    # TRL's ratio is that of a whole answer, and its KL the plain log-ratio when the answers were sampled.
    clip = Clip(low=0.5, high=1.5)

    def loss_of(told: Told) -> Tensor:
        kl_N = told.batch.sum_answers(told.old_S - told.reference_S)
        advantage_N = leave_one_out(samples.reward_N - BETA * kl_N, samples.groups())
        now_N, old_N = told.batch.sum_answers(told.logprob_S), told.batch.sum_answers(told.old_S)
        assert some(clipped_share(now_N, old_N, advantage_N, clip))
        return clipped_surrogate(now_N, old_N, advantage_N, clip).mean()

    theirs = learn_samples("rloo", setting, samples, beta=BETA, epsilon=clip.low, epsilon_high=clip.high)
    assert_same(learn_ours(setting, samples, loss_of), theirs)


def test_ppos_surrogate_is_trls_where_every_token_has_an_advantage_of_its_own(
    setting: Setting, samples: Samples
) -> None:
    # Both sides take our advantages: TRL 1.16 makes none that differ by token.
    told = tell(setting.base(), setting, samples)
    rewards_S = token_rewards(samples.reward_N, told.old_S - told.reference_S, told.batch.lengths().long(), BETA)
    values_S = torch.randn(rewards_S.shape, generator=torch.Generator().manual_seed(2))
    advantage_S, _ = advantages_and_returns(rewards_S, values_S, told.batch.lengths().long())

    def loss_of(told: Told) -> Tensor:
        assert some(clipped_share(told.logprob_S, told.old_S, advantage_S, CLIP))
        return clipped_surrogate(told.logprob_S, told.old_S, advantage_S, CLIP).mean()

    samples = replace(samples, advantage_S=advantage_S)
    theirs = learn_samples("grpo", setting, samples, loss_type="dapo", beta=0.0, **BOUNDS)
    assert_same(learn_ours(setting, samples, loss_of), theirs)
