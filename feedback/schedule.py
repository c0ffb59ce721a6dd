"""Would it train now, and why or why not. Pure."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from feedback.lessons import Counted


class ScheduleRules(BaseModel):
    """When a job starts by itself, and from how many votes on an operator may start one.

    Votes are counted as what the job's recipe learns from: pairs, thumbs or demonstrations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="Whether jobs start by themselves at all.")
    min_new_pairs: int = Field(default=64, ge=1, description="New votes since the last job before one starts.")
    settle_s: float = Field(
        default=20.0,
        ge=0,
        description="Seconds without a vote before a job starts, so that a round is whole.",
    )
    min_pairs: int = Field(default=8, ge=2, description="Votes in all below which nobody can start a job.")


@dataclass(frozen=True)
class ScheduleFacts:
    """What the decision rests on. Times are Unix seconds.

    `new` and `total` count what the recipe learns from, which `counted` names: since the last job's snapshot, and in
    all.
    """

    now: float
    counted: Counted
    new: int
    total: int
    last_vote_at: float | None
    job_open: bool


@dataclass(frozen=True)
class Decision:
    """`train`, and the reasons: what stands in the way, or what speaks for it."""

    train: bool
    reasons: tuple[str, ...]


def decide(rules: ScheduleRules, facts: ScheduleFacts) -> Decision:
    """Whether a job should start by itself now.

    Votes that keep coming put a job off only until twice as many as needed are there.
    """
    against: list[str] = []
    told = f"{facts.new} new {_named(facts.new, facts.counted)} since the last training"
    if not rules.enabled:
        against.append("training by itself is switched off")
    if facts.job_open:
        against.append("a job is waiting or running")
    if facts.total < rules.min_pairs:
        against.append(f"{facts.total} {_named(facts.total, facts.counted)} in all, {rules.min_pairs} are the least")
    if facts.new < rules.min_new_pairs:
        against.append(f"{told}, {rules.min_new_pairs} start one")
    elif facts.new < 2 * rules.min_new_pairs and facts.last_vote_at is not None:
        quiet_s = max(0.0, facts.now - facts.last_vote_at)
        if quiet_s < rules.settle_s:
            against.append(f"votes are still coming (last {quiet_s:.0f} s ago, waiting for {rules.settle_s:.0f} s)")
    if against:
        return Decision(False, tuple(against))
    return Decision(True, (told,))


def _named(number: int, counted: Counted) -> str:
    return counted.removesuffix("s") if number == 1 else counted
