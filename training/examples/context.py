"""How long an example may be: no longer than the base reads, whatever the recipe says. Pure."""

from typing import TypeVar

from training.algorithms import OnlinePreferenceRecipe, OnPolicy, PairwiseRewardRecipe, Recipe, Training
from training.examples.tokens import ChatTokens

Limited = TypeVar("Limited", bound=Training)


def within_context(recipe: Recipe, context_tokens: int, tokens: ChatTokens) -> Recipe:
    """The recipe with every `max_example_tokens` lowered to what fits into the base's context, where it says more.

    A pairwise reward model reads a pair as one sequence, with the tokens between its answers.
    """
    if isinstance(recipe, OnlinePreferenceRecipe):
        loss, reward = lowered(recipe.loss, context_tokens), lowered(recipe.reward, context_tokens)
        return recipe.model_copy(update={"loss": loss, "reward": reward})
    if isinstance(recipe, OnPolicy):
        reward = lowered(recipe.reward, context_tokens)
        return lowered(recipe, context_tokens).model_copy(update={"reward": reward})
    if isinstance(recipe, PairwiseRewardRecipe):
        return lowered(recipe, context_tokens - len(tokens.again()))
    return lowered(recipe, context_tokens)


def lowered(recipe: Limited, most_tokens: int) -> Limited:
    if recipe.max_example_tokens <= most_tokens:
        return recipe
    return recipe.model_copy(update={"max_example_tokens": most_tokens})
