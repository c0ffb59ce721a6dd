"""PPO, RLOO and GRPO on a tiny model with an engine of its own: what is learned, resumption, who may have answered."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes, same
from tests.training.loops.on_policy import Bench, low_bytes
from tests.training.tiny import add_random_head
from training.algorithms import PolicyGradientRecipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import EngineMismatch, Stopped
from training.examples.batches import Item, make_pass
from training.examples.tokens import ChatTokens
from training.loops.experience import Experience, Part, load_experience
from training.loops.policy_gradient import Lesson, Rounds, advantages, learn_lesson, make_lessons, together
from training.loops.steps import POLICY
from training.recipe import parse_recipe
from training.rewards.reward_model import Answered

KINDS = ("ppo", "rloo", "grpo")


def make(algorithm: str, *, rollouts: Mapping[str, object] | None = None, **fields: object) -> PolicyGradientRecipe:
    sizes = {"rounds": 3, "prompts": 3, "answers": 3, "max_tokens": 6}
    body = {
        "algorithm": algorithm,
        "epochs": 1,
        "minibatches": 2,
        "pass_tokens": 100,
        "kl_weight": 0.0,
        "adapter": {"rank": 8, "alpha": 16},
        "rollouts": {**sizes, **(rollouts or {})},
        **fields,
    }
    recipe = parse_recipe(body)
    assert isinstance(recipe, PolicyGradientRecipe)
    return recipe


@pytest.fixture
def bench(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> Bench:
    return Bench(tiny_model, tiny_tokens, tmp_path / "run")


@pytest.mark.parametrize("algorithm", KINDS)
def test_rewarded_answers_become_more_likely(bench: Bench, algorithm: str) -> None:
    notes = Notes()
    sizes = {"rounds": 10, "prompts": 4, "answers": 16, "max_tokens": 2}
    recipe = make(algorithm, rollouts=sizes, epochs=4, clip_low=0.5, clip_high=1.0, optimizer={"learning_rate": 1e-2})
    assert bench.gained(bench.train(recipe, notes)) > 0.05
    assert [point["step"] for point in notes.points] == list(range(1, 81))
    first = notes.points[0]
    assert first["clip_fraction"] == 0, "the policy that learns is still the one that answered"
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert notes.points[-1]["kl"] > 0.01
    assert first["importance"] == pytest.approx(1, abs=0.02)
    assert first["engine_gap"] < 0.02
    assert first["entropy"] > 1
    assert ("value_error" in first) is (algorithm == "ppo")


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("stop_at", [3, 9])  # in the steps of a round, among the answers of another
def test_a_stopped_run_ends_with_the_same_adapter_as_an_unbroken_one(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, algorithm: str, ahead: bool, stop_at: int
) -> None:
    recipe = make(algorithm, rollouts={"ahead": ahead}, kl_weight=0.05, kl_target=0.1, kl_horizon=10)
    unbroken = Bench(tiny_model, tiny_tokens, tmp_path / "unbroken").train(recipe, Notes())
    broken = Bench(tiny_model, tiny_tokens, tmp_path / "broken")
    with pytest.raises(Stopped):
        broken.train(recipe, Notes(stop_at))
    finished = len(list(broken.folder.glob("round-*.safetensors")))
    torch.manual_seed(99)  # whatever the second attempt's process did before
    assert same(broken.train(recipe, Notes()), unbroken)
    assert broken.rollouts is not None
    assert len(broken.rollouts.begun) == recipe.rollouts.rounds - finished, "finished rounds are not answered again"
    assert not list(broken.folder.glob("policy-*")), "what has answered is not kept"


def test_a_round_sampled_ahead_comes_from_the_policy_before_the_steps_of_the_one_it_overlaps(bench: Bench) -> None:
    notes = Notes()
    bench.train(make("grpo", rollouts={"ahead": True}, optimizer={"learning_rate": 1e-2}), notes)
    assert bench.rollouts is not None
    states = bench.rollouts.begun
    assert same(states[0], states[1])
    assert not same(states[1], states[2])
    assert all(point["engine_gap"] < 0.02 for point in notes.points), "each is scored by the policy that answered"


def test_an_engine_that_answers_without_the_adapter_is_refused(bench: Bench) -> None:
    recipe = make("grpo", optimizer={"learning_rate": 1e-2}, rollouts={"rounds": 9})
    with pytest.raises(EngineMismatch, match="without the adapter"):
        bench.train(recipe, Notes(), serves=False)
    assert list(bench.folder.glob("round-*.safetensors")), "the rounds before were in order, and are kept"


def test_an_engine_whose_logprobs_are_off_is_refused(bench: Bench) -> None:
    with pytest.raises(EngineMismatch, match=r"0\.2\d\d nats a token off .* 0\.1 are allowed"):
        bench.train(make("grpo"), Notes(), off=-0.25)


def test_tokens_weigh_by_what_the_engine_said_of_them(bench: Bench) -> None:
    notes = Notes()
    recipe = make("grpo", rollouts={"rounds": 1, "max_engine_gap": 5}, importance_cap=1.5)
    bench.train(recipe, notes, off=-0.25)
    assert notes.points[0]["importance"] == pytest.approx(math.exp(0.25), abs=0.02)
    bench.folder = bench.folder / "capped"
    bench.train(recipe, notes, off=-2)
    assert notes.points[-1]["importance"] == pytest.approx(1.5)


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_larger_kl_weight_keeps_the_policy_nearer_to_the_base(bench: Bench, tmp_path: Path, algorithm: str) -> None:
    ends = []
    for number, weight in enumerate((0.0, 2.0)):
        bench.folder = tmp_path / str(number)
        notes = Notes()
        sizes = {"rounds": 6, "prompts": 6, "answers": 4}
        bench.train(make(algorithm, kl_weight=weight, rollouts=sizes, optimizer={"learning_rate": 1e-2}), notes)
        ends.append(notes.points[-1]["kl"])
    assert ends[1] < ends[0] / 2


SCORED = Experience(
    parts=(Part(Item((1,), ((2, 3), (4,))), group=0), Part(Item((5,), ((6,), (7,))), group=1)),
    reward_N=torch.tensor([3.0, 1.0, 2.0, 0.0]),
    cut_N=torch.zeros(4),
    old_S=torch.tensor([-0.9, -0.7, -0.8, -1.0, -1.1]),
    engine_S=torch.full((5,), -1.0),
    reference_S=torch.full((5,), -1.0),
    value_S=torch.tensor([0.2, 0.4, 0.0, 0.5, 0.1]),
)
"""Two prompts with two answers each; log-ratios to the base of 0.1, 0.3 | 0.2 | 0 | -0.1."""
SCALE = torch.tensor([1.0, 2.0])
"""Makes the scores 1, 0, 0.5, -0.5."""


def test_ppo_estimates_advantages_of_rewards_with_kl_at_every_token() -> None:
    recipe = make("ppo", discount=0.9, trace=0.5)
    advantage_S, return_S = advantages(SCORED, recipe, 0.5, SCALE)
    # Rewards: -0.05, 1 - 0.15 | -0.1 | 0.5 | -0.5 + 0.05. Of the first answer's two tokens, the second is 0.85 - 0.4
    # ahead of its value, the first -0.05 + 0.9·0.4 - 0.2 and 0.9·0.5 of that.
    ahead_S = torch.tensor([0.11 + 0.45 * 0.45, 0.45, -0.1, 0.0, -0.55])
    torch.testing.assert_close(return_S, ahead_S + SCORED.value_S)
    torch.testing.assert_close(advantage_S, (ahead_S - 0.0225) / math.sqrt(0.122025))


def test_rloo_takes_the_whole_answers_kl_from_its_score_and_the_others_mean_from_that() -> None:
    advantage_S, _ = advantages(SCORED, make("rloo"), 0.5, SCALE)
    # Held scores: 1 - 0.2, 0 - 0.1 | 0.5, -0.5 + 0.05.
    torch.testing.assert_close(advantage_S, torch.tensor([0.9, 0.9, -0.9, 0.95, -0.95]))


@pytest.mark.parametrize(("by_spread", "size"), [(False, 0.5), (True, math.sqrt(0.5))])
def test_grpo_compares_scores_without_kl_within_a_prompt(by_spread: bool, size: float) -> None:
    advantage_S, _ = advantages(SCORED, make("grpo", by_spread=by_spread), 0.5, SCALE)
    torch.testing.assert_close(advantage_S, torch.tensor([size, size, -size, size, -size]), atol=1e-3, rtol=0)


def test_every_part_gets_its_own_tokens_columns() -> None:
    recipe = make("rloo")
    first, second = make_lessons(SCORED, recipe, 0.5, SCALE)
    advantage_S, _ = advantages(SCORED, recipe, 0.5, SCALE)
    assert (first.items, second.items) == ((SCORED.parts[0].item,), (SCORED.parts[1].item,))
    for name, column_S in (("old_S", SCORED.old_S), ("value_S", SCORED.value_S), ("advantage_S", advantage_S)):
        assert torch.equal(first.columns[name], column_S[:3])
        assert torch.equal(second.columns[name], column_S[3:])


def test_the_adaptive_controller_moves_the_kl_weight_towards_its_target(bench: Bench) -> None:
    notes = Notes()
    bench.train(make("rloo", kl_weight=0.1, kl_target=5.0, kl_horizon=9), notes)
    weights = [point["kl_weight"] for point in notes.points]
    assert weights == sorted(weights, reverse=True), "the KL is far below its target: the weight is lowered"
    assert weights[-1] == pytest.approx(0.1 * 0.8**2)


@pytest.mark.parametrize("algorithm", KINDS)
def test_lessons_teach_the_same_alone_in_one_pass_and_in_halves(
    bench: Bench, tiny_model: Path, tiny_tokens: ChatTokens, algorithm: str
) -> None:
    recipe = make(algorithm, rollouts={"rounds": 1})
    bench.train(recipe, Notes())
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter(POLICY, recipe.adapter, seed=3)
    base.add_adapter("value", recipe.adapter, seed=4)
    add_random_head(base, "value", seed=4)
    assert bench.rollouts is not None
    rounds = Rounds(base, recipe, bench.rollouts, low_bytes, bench.folder, Notes().watch())
    alone = rounds.enter(0).lessons
    assert len(alone) == 3
    (whole,) = together(alone, pass_tokens=10_000)
    halves = whole.halves()
    quarters = [quarter for half in halves for quarter in half.halves()]
    assert [len(each.items) for each in halves] == [1, 2]
    assert [len(each.items[0].answers) for each in quarters[:2]] == [1, 2], "a single prompt's answers are shared out"
    n_tokens = sum(len(lesson.columns["old_S"]) for lesson in alone)
    gradients = []
    for parts in (alone, [whole], halves, quarters):
        for parameter in base.parameters(POLICY).values():
            parameter.grad = None
        for part in parts:
            learn_lesson(base, part, 0.1, recipe, n_tokens)
        own = base.parameters(POLICY).values()
        gradients.append(torch.cat([p.grad.flatten() for p in own if p.grad is not None]))
    assert gradients[0].abs().max() > 0
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-6, rtol=1e-3)


def gradients_of(
    base: SharedBase, lesson: Lesson, recipe: PolicyGradientRecipe, **columns: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What a lesson with other columns teaches policy and value."""
    every = {name: list(base.parameters(name).values()) for name in (POLICY, "value")}
    every["head"] = list(base.head_parameters("value").values())
    for parameter in (each for own in every.values() for each in own):
        parameter.grad = None
    learn_lesson(base, Lesson(lesson.items, {**lesson.columns, **columns}), 0.0, recipe, len(lesson.columns["old_S"]))
    return {
        name: torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in own])
        for name, own in every.items()
    }


@pytest.fixture
def taught(tiny_model: Path) -> tuple[SharedBase, Lesson]:
    """A base with policy and value, and a lesson whose answers came from this very policy."""
    recipe = make("ppo")
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter(POLICY, recipe.adapter, seed=3)
    base.add_adapter("value", recipe.adapter, seed=4)
    add_random_head(base, "value", seed=4)
    items = (Item((256, 5, 9), ((7, 8), (3,))), Item((256, 6), ((11, 12, 13),)))
    batch = make_pass(items)
    with torch.no_grad():
        with base.policy(POLICY):
            old_S = base.logprobs(batch)
        value_S = base.token_values("value", batch)
    columns = dict.fromkeys(("old_S", "engine_S", "reference_S"), old_S)
    columns |= {"value_S": value_S, "return_S": value_S + 0.1, "advantage_S": torch.linspace(-1, 1, 6)}
    return base, Lesson(items, columns)


@pytest.mark.parametrize("algorithm", KINDS)
def test_tokens_are_learned_from_as_much_as_the_engine_and_training_agree_on_them(
    taught: tuple[SharedBase, Lesson], algorithm: str
) -> None:
    base, lesson = taught
    recipe = make(algorithm, importance_cap=3.0)
    plain = gradients_of(base, lesson, recipe)[POLICY]
    assert plain.abs().max() > 1e-4
    engine_S = lesson.columns["old_S"] - math.log(2)
    twice = gradients_of(base, lesson, recipe, engine_S=engine_S)[POLICY]
    torch.testing.assert_close(twice, 2 * plain, atol=1e-7, rtol=1e-4)
    cut = gradients_of(base, lesson, recipe, engine_S=engine_S - 5)[POLICY]
    torch.testing.assert_close(cut, 3 * plain, atol=1e-7, rtol=1e-4)


def test_values_learn_their_returns_by_their_weight(taught: tuple[SharedBase, Lesson]) -> None:
    base, lesson = taught
    with torch.no_grad(), base.policy("value"):
        batch = make_pass(lesson.items)
        hidden_SH = base.hidden(batch, batch.rows_S)
    wanted_H = -0.1 * hidden_SH.mean(dim=0)  # of ½·(value − return)², whose return is 0.1 above
    for weight in (0.5, 2.0):
        found = gradients_of(base, lesson, make("ppo", value_weight=weight, value_clip=5.0))
        torch.testing.assert_close(found["head"], weight * wanted_H, atol=1e-6, rtol=1e-3)
        assert found["value"].abs().max() > 0
    policy = gradients_of(base, lesson, make("ppo", value_weight=2.0))[POLICY]
    torch.testing.assert_close(gradients_of(base, lesson, make("ppo", value_weight=0.5))[POLICY], policy)


def test_a_step_takes_as_few_passes_as_their_length_allows() -> None:
    lessons = [Lesson((Item((1,), ((2,) * n,)),), {"old_S": torch.full((n,), float(n))}) for n in (9, 3, 20, 4)]
    found = together(lessons, pass_tokens=15)
    assert [each.n_tokens for each in found] == [21, 15, 4]
    assert [len(each.items) for each in together(lessons, pass_tokens=1000, processes=2)] == [2, 2]
    for each in found:
        expected = [float(len(answer)) for item in each.items for answer in item.answers for _ in answer]
        assert each.columns["old_S"].tolist() == expected


def test_a_kept_round_is_read_back_as_it_was(bench: Bench) -> None:
    bench.train(make("ppo", rollouts={"rounds": 1}), Notes())
    experience, more = load_experience(bench.folder / "round-0000.safetensors")
    assert len(experience.lengths) == 9
    assert experience.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert int(experience.lengths.sum()) == len(experience.old_S) == len(experience.engine_S)
    assert float(more["kl_weight"]) == 0
    answered = [Answered(part.item.prompt, answer) for part in experience.parts for answer in part.item.answers]
    assert experience.reward_N.tolist() == pytest.approx(low_bytes(answered))
