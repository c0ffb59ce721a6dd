"""Runs of the on-policy loops on a tiny model with an engine of its own, and what the policy has learned by them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.training.loops.notes import Notes
from tests.training.tiny import make_pairs
from tests.training.tiny_engine import TinyEngine, TinyRollouts
from training.algorithms import OnlinePreferenceRecipe, PolicyGradientRecipe
from training.base.model import SharedBase
from training.examples.tokens import ChatTokens
from training.loops.online_preference import train_online_preference
from training.loops.policy_gradient import train_policy_gradient
from training.loops.steps import POLICY
from training.rewards.reward_model import Answered
from training.sampling.rollouts import Asked

PROMPTS = tuple(({"role": "user", "content": f"Say {letter}"},) for letter in "abcdef")
LOW_BYTES = 128


def low_bytes(asked: Sequence[Answered]) -> list[float]:
    """A taste that a random model can learn: the share of tokens from the first half of the bytes."""
    return [sum(token < LOW_BYTES for token in each.answer) / len(each.answer) for each in asked]


class Bench:
    """One attempt after another at a run in one folder, each as in a fresh process."""

    def __init__(self, model: Path, tokens: ChatTokens, folder: Path) -> None:
        self.engine = TinyEngine(model, tokens)
        self.folder = folder
        self.rollouts: TinyRollouts | None = None
        self._model, self._tokens = model, tokens

    def train(
        self,
        recipe: PolicyGradientRecipe | OnlinePreferenceRecipe,
        notes: Notes,
        *,
        serves: bool = True,
        off: float = 0.0,
        votes: bool = True,
    ) -> dict[str, torch.Tensor]:
        """The trained adapter; `serves` and `off` as for TinyRollouts, without `votes` there are none to mix in."""
        base = SharedBase(self._model, torch.device("cpu"))
        asked = Asked(PROMPTS, recipe.rollouts, recipe.seed)
        self.rollouts = rollouts = TinyRollouts(self.engine, self._tokens, asked, serves=serves, off=off)
        if isinstance(recipe, OnlinePreferenceRecipe):
            said = make_pairs(self._tokens) if votes else []
            train_online_preference(base, said, recipe, rollouts, low_bytes, self.folder, notes.watch(), every_s=1e9)
        else:
            train_policy_gradient(base, recipe, rollouts, low_bytes, self.folder, notes.watch(), every_s=1e9)
        return base.adapter_state(POLICY)

    def gained(self, state: dict[str, torch.Tensor]) -> float:
        """By how much a low byte has become likelier as an answer's first token: exact, nothing is drawn."""
        self.engine.load("trained", state)
        prompts = [self._tokens.prompt(each) for each in PROMPTS]
        before, after = (
            sum(float(self.engine.first_token(name, prompt)[:LOW_BYTES].sum()) for prompt in prompts) / len(prompts)
            for name in (None, "trained")
        )
        return after - before
