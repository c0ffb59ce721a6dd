"""Would it train now, and why or why not. Pure."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class ScheduleRules(BaseModel):
    """When a job starts by itself, and from how many pairs on an operator may start one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="Whether jobs start by themselves at all.")
    min_new_pairs: int = Field(default=64, ge=1, description="Pairs said since the last job before one starts.")
    settle_s: float = Field(
        default=20.0,
        ge=0,
        description="Seconds without a vote before a job starts, so that a round is whole.",
    )
    min_pairs: int = Field(default=8, ge=2, description="Pairs in all below which nobody can start a job.")


@dataclass(frozen=True)
class ScheduleFacts:
    """What the decision rests on. Times are Unix seconds; `new_pairs` counts pairs since the last job's snapshot."""

    now: float
    new_pairs: int
    total_pairs: int
    last_vote_at: float | None
    job_open: bool


@dataclass(frozen=True)
class Decision:
    """`train`, and the reasons: what stands in the way, or what speaks for it."""

    train: bool
    reasons: tuple[str, ...]


def decide(rules: ScheduleRules, facts: ScheduleFacts) -> Decision:
    """Whether a job should start by itself now.

    Votes that keep coming put a job off only until twice the needed pairs are there.
    """
    against: list[str] = []
    if not rules.enabled:
        against.append("training by itself is switched off")
    if facts.job_open:
        against.append("a job is waiting or running")
    if facts.total_pairs < rules.min_pairs:
        against.append(f"{facts.total_pairs} pairs in all, {rules.min_pairs} are the least")
    if facts.new_pairs < rules.min_new_pairs:
        against.append(f"{facts.new_pairs} new pairs since the last training, {rules.min_new_pairs} start one")
    elif facts.new_pairs < 2 * rules.min_new_pairs and facts.last_vote_at is not None:
        quiet_s = max(0.0, facts.now - facts.last_vote_at)
        if quiet_s < rules.settle_s:
            against.append(f"votes are still coming (last {quiet_s:.0f} s ago, waiting for {rules.settle_s:.0f} s)")
    if against:
        return Decision(False, tuple(against))
    return Decision(True, (f"{facts.new_pairs} new pairs since the last training",))
