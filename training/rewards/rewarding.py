"""A job's reward model: trained on its votes, its temperature and its worth found on held-out ones, exported."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.algorithms import AnyRewardRecipe
from training.base.model import SharedBase
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.experience import Scorer
from training.loops.reward import train_reward
from training.loops.steps import Watch
from training.rewards.reading import read_pairs
from training.rewards.reward_files import Exported, RewardOrigin, check_folder, export_reward, load_reward, manifest_of
from training.rewards.reward_model import Answered, Assessment, RewardModel, assess


@dataclass(frozen=True)
class Votes:
    """Pairs to learn from, and pairs of prompts that nothing is trained on."""

    train: Sequence[TokenPair]
    held_out: Sequence[TokenPair]

    def split_held_out(self) -> tuple[list[TokenPair], list[TokenPair]]:
        """Half of the held-out questions to fit the temperature on, the others to judge by."""
        sides: tuple[list[TokenPair], list[TokenPair]] = ([], [])
        for pair in self.held_out:
            sides[hashlib.sha256(pair.question.encode()).digest()[0] % 2].append(pair)
        return sides


def reward_model_once(
    model: SharedBase,
    tokens: ChatTokens,
    votes: Votes,
    recipe: AnyRewardRecipe,
    origin: RewardOrigin,
    folder: Path,
    work: Path,
    watch: Watch,
    *,
    every_s: float,
) -> Exported:
    """Train and export below `folder`, unless an earlier attempt at the job has; checkpoints go to `work`.

    Raises what `train_reward` does.
    """
    if (found := find_exported(folder, origin.job_id)) is not None:
        return found
    readings = read_pairs(votes.train, recipe, tokens)
    own = {"model": model, "watch": watch}
    members = model.crew.together(train_reward, own, readings=readings, recipe=recipe, folder=work, every_s=every_s)
    calibration, judged = votes.split_held_out()

    def judge(written: RewardModel) -> Assessment:
        return assess(written, calibration, judged, lambda: watch.check("while the reward model was judged"))

    exported = export_reward(RewardModel(model, tokens, recipe, members), origin, folder, judge)
    for member in members:
        model.drop_adapter(member)
    return exported


def find_exported(folder: Path, job_id: str) -> Exported | None:
    """What a job has exported, checked against its digest. Hidden folders were left half-written by a kill."""
    for each in sorted(folder.glob("[!.]*")):
        manifest = manifest_of(each)
        if manifest is not None and manifest["job_id"] == job_id:
            return Exported(each, check_folder(each))
    return None


def scorer_of(folder: Path, model: SharedBase, tokens: ChatTokens, base_digest: str, watch: Watch) -> Scorer:
    """Rewards by an exported model, on the base that is in memory. RewardRefused as `load_reward`."""
    loaded = load_reward(folder, model, tokens, base_digest)

    def score(asked: Sequence[Answered]) -> list[float]:
        found = loaded.rewards(asked, lambda: watch.check("while answers were rewarded"))
        return [each.value for each in found]

    return score
