"""How far a reward model still agrees with the taste on what the policy answers as it moves away: round by round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.learn.tastes import Agreement, Taste, agreement
from tests.demo.taste import Seen
from training.examples.tokens import TokenIds
from training.loops.experience import Experience, load_experience

Text = Callable[[TokenIds], str]
"""The text of an answer's ids."""


def rounds_of(job_folder: Path, taste: Taste, text: Text) -> list[dict[str, Any]]:
    """The figures of every kept round of a job, of its newest run, in order; none where it had no rounds."""
    runs = sorted((job_folder / "runs").glob("v*"))
    kept = sorted(runs[-1].glob("round-*.safetensors")) if runs else []
    return [{"round": nth + 1, **round_figures(load_experience(path)[0], taste, text)} for nth, path in enumerate(kept)]


def round_figures(experience: Experience, taste: Taste, text: Text) -> dict[str, Any]:
    """One round's fresh answers: mean reward by the model (nats) and by the taste, their agreement within a prompt.

    `kl` is the mean log-ratio of the policy to the base over the sampled tokens (nats a token).
    """
    answers = [answer for part in experience.parts for answer in part.item.answers]
    cut = experience.cut_N.tolist()
    seen = [Seen(text(answer), not is_cut) for answer, is_cut in zip(answers, cut, strict=True)]
    rewards, groups = experience.reward_N.tolist(), experience.groups.tolist()
    pairs = agreed = 0
    for group in sorted(set(groups)):
        own = [i for i, each in enumerate(groups) if each == group]
        found = agreement(taste, [seen[i] for i in own], [rewards[i] for i in own])
        pairs, agreed = pairs + found.pairs, agreed + found.agreed
    share = Agreement(pairs, agreed).share
    return {
        "answers": len(seen),
        "pairs": pairs,
        "agreement": None if share is None else round(share, 4),
        "reward": round(sum(rewards) / len(rewards), 4),
        "taste": round(sum(map(taste.score, seen)) / len(seen), 3),
        "kl": round(float((experience.old_S - experience.reference_S).mean()), 4),
        "words": round(sum(len(each.text.split()) for each in seen) / len(seen), 1),
        "cut_off": round(sum(cut) / len(cut), 3),
    }
