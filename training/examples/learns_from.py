"""What of the votes each recipe learns from, for the schedule to count by. Pure; never imports torch."""

from feedback.events import OVERALL
from feedback.ids import Lesson
from feedback.lessons import BOTH_BAD, DISLIKED, EDIT, LIKED, PAIRS, PREFERRED, TIE, LearnsFrom
from feedback.scores import scored
from training.algorithms import DemonstrationSource, KtoRecipe, OnPolicy, PairTraining, Recipe, SftRecipe

_SHOWN: dict[DemonstrationSource, Lesson] = {"edit": EDIT, "preferred": PREFERRED, "liked": LIKED}


def learns_from(recipe: Recipe) -> LearnsFrom:
    """As `lessons.draw_lessons` takes them, before anything is held out or found unusable.

    An on-policy recipe counts what its reward model learns from, or the votes that judge it where that is given.
    """
    match recipe:
        case KtoRecipe():
            sides = {PREFERRED: 2, EDIT: 2} if recipe.from_pairs else {}
            return LearnsFrom(counted="thumbs", worth={LIKED: 1, DISLIKED: 1, BOTH_BAD: 2, **sides})
        case SftRecipe():
            shown = {lesson: 1 for source, lesson in _SHOWN.items() if source in recipe.shares}
            return LearnsFrom(counted="demonstrations", worth=shown)
        case PairTraining():
            return _of_pairs(recipe)
        case OnPolicy():
            return _of_pairs(recipe.reward) if recipe.reward_model is None else PAIRS


def _of_pairs(recipe: PairTraining) -> LearnsFrom:
    compared = {PREFERRED: 1, EDIT: 1, **({TIE: 1} if recipe.ties else {})} if OVERALL in recipe.aspects else {}
    return LearnsFrom(counted="pairs", worth={**compared, **{scored(aspect): 1 for aspect in recipe.aspects}})
