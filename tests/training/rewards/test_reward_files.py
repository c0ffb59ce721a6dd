"""Reward models in process and as folders: antisymmetry, ensembles, the same rewards once loaded again, refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.loops.notes import Notes
from tests.training.tiny import make_pairs, make_reward_recipe
from training.base.loading import FP32, Precision
from training.base.model import SharedBase
from training.errors import AdapterDamaged, ModelRefused, RewardRefused
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.reward import train_reward
from training.recipe import parse_recipe
from training.rewards.calibration import HOTTEST
from training.rewards.reading import read_pairs
from training.rewards.reward_files import Exported, RewardOrigin, check_folder, export_reward, load_reward
from training.rewards.reward_model import Answered, RewardModel, assess, by_prompt
from training.rewards.rewarding import find_exported

ORIGIN = RewardOrigin(base_digest="ba5e", job_id="job-1", recipe_name="reward")
KINDS = ("reward", "pairwise_reward")


def trained(
    model: Path, tokens: ChatTokens, folder: Path, *, precision: Precision = FP32, **recipe_fields: object
) -> RewardModel:
    """A reward model trained for a few steps, with its dropout still in place."""
    recipe = make_reward_recipe(**{"epochs": 4, "optimizer": {"learning_rate": 5e-3}, **recipe_fields})
    base = SharedBase(model, torch.device("cpu"), precision)
    readings = read_pairs(make_pairs(tokens), recipe, tokens)
    return RewardModel(base, tokens, recipe, train_reward(base, readings, recipe, folder, Notes().watch()))


def exported(
    model: RewardModel, tokens: ChatTokens, folder: Path, *, job_id: str = "job-1", held_out: int = 30
) -> Exported:
    calibration, judged = make_pairs(tokens, 24), make_pairs(tokens, held_out)
    return export_reward(
        model, replace(ORIGIN, job_id=job_id), folder, lambda written: assess(written, calibration, judged)
    )


def asked(tokens: ChatTokens) -> list[Answered]:
    return [Answered(p.prompt, answer) for p in make_pairs(tokens) for answer in (p.chosen, p.rejected)]


def turned(pair: TokenPair) -> TokenPair:
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_preference_turned_round_is_its_opposite(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, kind: str
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path, algorithm=kind)
    pairs = make_pairs(tiny_tokens)
    straight, other = model.preferences(pairs), model.preferences([turned(pair) for pair in pairs])
    for one, opposite in zip(straight, other, strict=True):
        assert abs(one.margin) > 0.05
        assert one.margin == pytest.approx(-opposite.margin, abs=1e-5)
        assert one.probability == pytest.approx(1 - opposite.probability, abs=1e-5)


def test_a_pairwise_margin_is_the_mean_over_both_orders(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path, algorithm="pairwise_reward")
    pair, between = make_pairs(tiny_tokens)[0], tiny_tokens.again()
    plain = [pair.chosen + between + pair.rejected, pair.rejected + between + pair.chosen]
    from training.examples.batches import Item, make_pass

    with torch.no_grad():
        f = [float(model.base.values(model.members[0], make_pass([Item(pair.prompt, (each,))]))) for each in plain]
    assert model.preferences([pair])[0].margin == pytest.approx((f[0] - f[1]) / 2, abs=1e-5)


def test_a_preference_is_the_difference_of_rewards(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path)
    rewards = [each.value for each in model.rewards(asked(tiny_tokens))]
    margins = [each.margin for each in model.preferences(make_pairs(tiny_tokens))]
    assert [chosen - rejected for chosen, rejected in zip(rewards[0::2], rewards[1::2], strict=True)] == pytest.approx(
        margins, abs=1e-5
    )


def test_answers_keep_their_order_whatever_prompts_they_share(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path)
    items = asked(tiny_tokens)
    alone = [model.rewards([item])[0].value for item in items]
    assert [each.value for each in model.rewards(items)] == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 4) for value in alone}) > 4


def test_many_answers_to_one_prompt_are_rewarded_in_passes_of_the_recipes_length() -> None:
    asked = [Answered((1, 2), (3,) * n) for n in (4, 4, 4, 90)] + [Answered((5,), (6,))]
    assert by_prompt(asked, 10) == [[0, 1], [2], [3], [4]]
    assert by_prompt(asked, 1000) == [[0, 1, 2, 3], [4]]


@pytest.mark.parametrize("pass_tokens", [32, 4096])
def test_rewards_come_in_the_order_that_they_were_asked_in(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, pass_tokens: int
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path, pass_tokens=pass_tokens)
    items = asked(tiny_tokens)
    mixed = [*items[::2], *items[1::2], items[0]]
    alone = [model.rewards([each])[0].value for each in mixed]
    assert [each.value for each in model.rewards(mixed)] == pytest.approx(alone, abs=1e-5)


def test_an_ensemble_gives_mean_and_spread_of_its_members(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path, ensemble=3)
    items = asked(tiny_tokens)
    single = [
        [each.value for each in RewardModel(model.base, tiny_tokens, model.recipe, [member]).rewards(items)]
        for member in model.members
    ]
    together = model.rewards(items)
    values_MN = torch.tensor(single).double()
    assert [each.value for each in together] == pytest.approx(values_MN.mean(0).tolist(), abs=1e-6)
    assert [each.spread for each in together] == pytest.approx(values_MN.std(0).tolist(), abs=1e-6)
    assert min(each.spread for each in together) > 0


def test_heads_are_joined_by_their_rule_and_judge_their_own_aspect(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    heads = ["overall", "harmless"]
    rule = {"kind": "weighted_sum", "weights": {"harmless": 2.0}}
    recipe = make_reward_recipe(heads=heads, rule=rule)
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    pairs = [replace(p, aspect=heads[i % 2]) for i, p in enumerate(make_pairs(tiny_tokens))]
    readings = read_pairs(pairs, recipe, tiny_tokens)
    model = RewardModel(base, tiny_tokens, recipe, train_reward(base, readings, recipe, tmp_path, Notes().watch()))
    rewards = model.rewards(asked(tiny_tokens))
    for each in rewards:
        assert each.value == pytest.approx(each.heads["overall"] + 2 * each.heads["harmless"], abs=1e-5)
    margins = [each.margin for each in model.preferences(pairs)]
    assert margins[1] == pytest.approx(rewards[2].heads["harmless"] - rewards[3].heads["harmless"], abs=1e-5)
    of_none = model.preferences([replace(pairs[0], aspect="honest")])[0].margin
    assert of_none == pytest.approx(rewards[0].value - rewards[1].value, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_loaded_again_gives_the_same_rewards(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path, kind: str
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path / "job", algorithm=kind, ensemble=2)
    found = exported(model, tiny_tokens, tmp_path / "models")
    assert {path.name for path in found.folder.iterdir()} == {
        "manifest.json",
        "recipe.json",
        "reward_model.safetensors",
    }
    assert [path.name for path in (tmp_path / "models").iterdir()] == [found.folder.name]
    assert found.folder.name == f"{kind}-{found.manifest['digest'][:12]}"
    fresh = SharedBase(tiny_model, torch.device("cpu"), FP32)
    loaded = load_reward(found.folder, fresh, tiny_tokens, "ba5e")
    pairs = make_pairs(tiny_tokens)
    before, after = model.preferences(pairs), loaded.preferences(pairs)
    assert [(each.margin, each.spread) for each in before] == [(each.margin, each.spread) for each in after]
    if kind == "reward":
        assert loaded.rewards(asked(tiny_tokens)) == model.rewards(asked(tiny_tokens))
        parse_recipe({"algorithm": "ppo", "reward_model": found.folder.name})
    assert loaded.temperature == found.manifest["calibration"]["temperature"]


def test_what_is_exported_is_judged_without_dropout(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    adapter = {"rank": 8, "alpha": 16, "dropout": 0.5}
    model = trained(tiny_model, tiny_tokens, tmp_path / "job", adapter=adapter)
    found = exported(model, tiny_tokens, tmp_path / "models")
    loaded = load_reward(found.folder, SharedBase(tiny_model, torch.device("cpu"), FP32), tiny_tokens, "ba5e")
    again = assess(loaded, make_pairs(tiny_tokens, 24), make_pairs(tiny_tokens, 30))
    assert again.as_json()["report"] == found.manifest["report"]


def test_the_manifest_reports_accuracy_calibration_and_length(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    found = exported(trained(tiny_model, tiny_tokens, tmp_path / "job"), tiny_tokens, tmp_path / "models")
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert manifest == found.manifest
    report = manifest["report"]
    assert report["pairs"] == 30
    assert 0 <= report["low"] <= report["accuracy"] <= report["high"] <= 1
    assert 0 <= report["calibration_error"] <= 1
    assert -1 <= report["length_correlation"] < 0  # short answers were chosen
    assert manifest["calibration"]["pairs"] == 24
    assert 0 < manifest["calibration"]["temperature"] <= HOTTEST
    assert math.isfinite(manifest["calibration"]["loss_after"])


def test_each_of_several_heads_is_judged_by_the_pairs_of_its_aspect(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    heads = ["overall", "harmless", "honest"]
    aspects = {"overall": 20, "harmless": 10}
    pairs = make_pairs(tiny_tokens, 30)
    base, recipe = SharedBase(tiny_model, torch.device("cpu"), FP32), make_reward_recipe(heads=heads)
    taught = [replace(pair, aspect=heads[n % 3]) for n, pair in enumerate(pairs)]
    members = train_reward(base, read_pairs(taught, recipe, tiny_tokens), recipe, tmp_path, Notes().watch())
    model = RewardModel(base, tiny_tokens, recipe, members)
    of_overall, of_harmless = pairs[:20], [replace(turned(pair), aspect="harmless") for pair in pairs[20:]]
    report = assess(model, [], of_overall + of_harmless).as_json()["report"]
    assert {name: told["pairs"] for name, told in report["heads"].items()} == aspects
    for name, own in (("overall", of_overall), ("harmless", of_harmless)):
        alone = assess(model, [], own).as_json()["report"]
        assert report["heads"][name]["accuracy"] == alone["accuracy"]
        assert report["heads"][name]["length_correlation"] == pytest.approx(alone["length_correlation"], abs=1e-5)
    assert "heads" not in assess(trained(tiny_model, tiny_tokens, tmp_path / "one"), [], pairs).as_json()["report"]


def test_exporting_the_same_again_leaves_what_is_there_and_tells_of_the_jobs_own_votes(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path / "job")
    first = exported(model, tiny_tokens, tmp_path / "models")
    manifest = (first.folder / "manifest.json").read_bytes()
    more = exported(model, tiny_tokens, tmp_path / "models", job_id="job-2", held_out=32)
    assert more.folder == first.folder
    assert (more.manifest["job_id"], more.manifest["report"]["pairs"]) == ("job-2", 32)
    assert (first.manifest["job_id"], first.manifest["report"]["pairs"]) == ("job-1", 30)
    assert (first.folder / "manifest.json").read_bytes() == manifest
    assert [path.name for path in (tmp_path / "models").iterdir()] == [first.folder.name]
    assert find_exported(tmp_path / "models", "job-1") == first
    assert find_exported(tmp_path / "models", "job-2") is None


def test_an_export_that_a_kill_left_half_written_is_not_found_and_is_made_anew(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    """Killed between its manifest and its name."""
    model = trained(tiny_model, tiny_tokens, tmp_path / "job")
    first = exported(model, tiny_tokens, tmp_path / "models")
    first.folder.rename(tmp_path / "models" / ".job-1")
    assert find_exported(tmp_path / "models", "job-1") is None
    assert exported(model, tiny_tokens, tmp_path / "models") == first
    assert find_exported(tmp_path / "models", "job-1") == first
    assert [path.name for path in (tmp_path / "models").iterdir()] == [first.folder.name]


def test_another_jobs_damaged_manifest_stops_nobody_and_is_refused_by_name(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    damaged = tmp_path / "models" / "reward-000000000000"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text('{"format": 1, "job_')
    first = exported(trained(tiny_model, tiny_tokens, tmp_path / "job"), tiny_tokens, tmp_path / "models")
    assert find_exported(tmp_path / "models", "job-1") == first
    with pytest.raises(RewardRefused, match="reward-000000000000 holds no exported reward model"):
        check_folder(damaged)


def test_a_changed_file_another_base_and_a_folder_of_something_else_are_refused(
    tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path
) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path / "job")
    folder = exported(model, tiny_tokens, tmp_path / "models").folder
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    with pytest.raises(RewardRefused, match="trained on base ba5e, this one is 0ther"):
        load_reward(folder, base, tiny_tokens, "0ther")
    for wrong in (tmp_path / "nowhere", tmp_path / "job"):
        with pytest.raises(RewardRefused, match="holds no exported reward model"):
            check_folder(wrong)
    recipe = folder / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"ensemble": 1', '"ensemble": 2'))
    with pytest.raises(AdapterDamaged, match="restore the folder"):
        load_reward(folder, base, tiny_tokens, "ba5e")


def test_a_pairwise_model_rewards_no_answer_alone(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    model = trained(tiny_model, tiny_tokens, tmp_path, algorithm="pairwise_reward")
    with pytest.raises(RewardRefused, match="compares two answers"):
        model.rewards(asked(tiny_tokens))


def test_one_folder_is_loaded_once_on_a_base(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    folder = exported(trained(tiny_model, tiny_tokens, tmp_path / "job"), tiny_tokens, tmp_path / "models").folder
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    load_reward(folder, base, tiny_tokens, "ba5e")
    with pytest.raises(ModelRefused, match="already"):
        load_reward(folder, base, tiny_tokens, "ba5e")
