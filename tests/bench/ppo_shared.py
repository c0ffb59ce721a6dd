"""What all sides of `make bench-ppo` share: the strengths that they learn at, and the figures that they tell."""

from dataclasses import dataclass

KL_WEIGHT, VALUE_WEIGHT, CLIP, TRACE = 0.05, 0.1, 0.2, 0.95


@dataclass(frozen=True)
class Told:
    """A side's figures. `waiting_s`: of all the seconds, those in which answers were waited for.

    `serving_mib` is what the processes hold beside the one that trains: the engine, and what is in front of it.
    """

    seconds: float
    waiting_s: float
    peak_mib: float
    steps: int
    answer_tokens: float
    reward_mean: float
    trl: str | None = None
    engine_mib: float = 0.0
    serving_mib: float = 0.0
