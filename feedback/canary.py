"""What becomes of a canary: waits, goes live, is withdrawn or given up, by blind votes and by tripwires. Pure.

Who votes, who counts and who carries a decision out is left to the gateway and the ledger.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from feedback.sequential import Evidence, evidence
from feedback.traffic import Comparison, Traffic, compare_medians, compare_rates, median_first_token_s, rate

DAY_S = 86_400.0

WhenInconclusive = Literal["retire", "withdraw", "hold"]
DecisionKind = Literal["wait", "promote", "withdraw", "inconclusive"]
Tripwire = Literal["errors", "empty", "refusals", "first_token"]


class CanaryRules(BaseModel):
    """How a canary is tried out, and when it goes live or goes away."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.1, ge=0, le=0.5, description="Share of sessions that the canary answers.")
    duel_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of prompts, drawn before anything is answered, that live and canary both answer for a vote.",
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        le=0.2,
        description="The most often that a canary equal to live may be promoted; as often it may be withdrawn by votes,"
        " and as often by all the tripwires together.",
    )
    least_votes: int = Field(default=20, ge=1, description="Decisive votes without which it is not promoted.")
    most_votes: int = Field(
        default=1000,
        ge=1,
        description="Votes, ties and both-bad ones too, after which it is given up as inconclusive.",
    )
    most_days: float = Field(default=14.0, gt=0, description="Days after which it is given up as inconclusive.")
    when_inconclusive: WhenInconclusive = Field(
        default="retire",
        description="What becomes of one given up: `retire`, `withdraw`, or `hold`, which leaves it to an operator.",
    )
    least_requests: int = Field(
        default=50, ge=1, description="Requests that the canary has to have answered before a tripwire may fire."
    )
    error_rate: float = Field(
        default=0.05, ge=0, le=1, description="By how much its share of errors may be above live's."
    )
    empty_rate: float = Field(
        default=0.05, ge=0, le=1, description="By how much its share of empty answers may be above live's."
    )
    refusal_rate: float = Field(
        default=0.05, ge=0, le=1, description="By how much its share of refusals may be above live's."
    )
    first_token_ratio: float = Field(
        default=2.0, ge=1, description="How many times live's its median time to the first token may be."
    )

    @model_validator(mode="after")
    def _votes_suffice(self) -> Self:
        if self.most_votes < self.least_votes:
            raise ValueError(
                f"most_votes = {self.most_votes} is below least_votes = {self.least_votes}, so that no canary could be"
                " promoted; raise it"
            )
        return self


class Tally(BaseModel):
    """Votes on blind duels, as the canary's: `wins` say that its answer was the better one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wins: NonNegativeInt = 0
    losses: NonNegativeInt = 0
    ties: NonNegativeInt = 0
    both_bad: NonNegativeInt = 0

    @property
    def decisive(self) -> int:
        return self.wins + self.losses

    @property
    def votes(self) -> int:
        return self.decisive + self.ties + self.both_bad

    @property
    def score_with_ties_as_halves(self) -> float | None:
        """For reports only, nothing is decided by it: wins and half of the ties and both-bad votes, of all votes."""
        return (self.wins + (self.ties + self.both_bad) / 2) / self.votes if self.votes else None


class Decision(BaseModel):
    """What is to become of the canary now. `reason` is a sentence; `numbers` is JSON for the audit trail.

    `fired` names the tripwires beyond their limits.
    """

    model_config = ConfigDict(frozen=True)

    kind: DecisionKind
    reason: str
    fired: tuple[Tripwire, ...] = ()
    numbers: dict[str, Any]


def decide(rules: CanaryRules, tally: Tally, canary: Traffic, live: Traffic, age_s: float) -> Decision:
    """What is to become of a canary that began `age_s` seconds ago. May be asked after every vote and at any time.

    `tally` holds the votes on prompts that were drawn for a duel before anything was answered, and each duel once;
    `canary` and `live` what either version answered since the canary began. A tripwire goes before votes, and a verdict
    of the votes before giving up.
    """
    told = evidence(tally.wins, tally.losses, rules.alpha)
    wires = tripwires(rules, canary, live)
    fired = tuple(name for name, wire in wires.items() if wire.fires and canary.requests >= rules.least_requests)
    kind, reason = _verdict(rules, tally, told, age_s)
    if fired:
        kind, reason = "withdraw", "; ".join(_wire_said(name, wires[name]) for name in fired)
    return Decision(kind=kind, reason=reason, fired=fired, numbers=_numbers(rules, tally, told, wires, age_s))


def tripwires(rules: CanaryRules, canary: Traffic, live: Traffic) -> Mapping[Tripwire, Comparison]:
    """Each figure that may not be worse than live's by more than the rules allow.

    They are looked at all the time, so each compares bounds that hold at all times: the canary's lower one against
    live's upper one. Two bounds of each wire may fail, so each gets that part of alpha: between equals, one or the
    other wire ever fires with a chance of at most alpha.
    """
    alpha = rules.alpha / 8

    def rates(of_canary: int, of_live: int, allowed: float) -> Comparison:
        return compare_rates(rate(of_canary, canary.requests, alpha), rate(of_live, live.requests, alpha), allowed)

    medians = [median_first_token_s(each, alpha) for each in (canary, live)]
    return {
        "errors": rates(canary.errors, live.errors, rules.error_rate),
        "empty": rates(canary.empty, live.empty, rules.empty_rate),
        "refusals": rates(canary.refusals, live.refusals, rules.refusal_rate),
        "first_token": compare_medians(medians[0], medians[1], rules.first_token_ratio),
    }


def on_canary_side(session: str, version: str, share: float) -> bool:
    """Whether the canary `version` answers a session: the same for ever, and drawn anew for every canary."""
    digest = hashlib.sha256(f"{session}\0{version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _verdict(rules: CanaryRules, tally: Tally, told: Evidence, age_s: float) -> tuple[DecisionKind, str]:
    """What the votes and the limits come to."""
    votes = _votes_said(tally, told)
    if told.worse:
        return "withdraw", f"{votes}: people prefer the live version"
    if told.better and tally.decisive >= rules.least_votes:
        return "promote", f"{votes}: people prefer the canary"
    if tally.votes >= rules.most_votes:
        return "inconclusive", f"{votes}: no winner after {tally.votes} votes, {rules.most_votes} are the most"
    if age_s >= rules.most_days * DAY_S:
        return "inconclusive", f"{votes}: no winner after {age_s / DAY_S:.1f} days, {rules.most_days:g} are the most"
    if told.better:
        return "wait", f"{votes}: enough to tell, but {rules.least_votes} decisive votes are the least"
    return "wait", f"{votes}: not enough to tell"


def _votes_said(tally: Tally, told: Evidence) -> str:
    others = f"{tally.ties} {'tie' if tally.ties == 1 else 'ties'} and {tally.both_bad} both bad aside"
    if not tally.decisive:
        return f"no decisive vote has come ({others})"
    votes = "vote" if tally.decisive == 1 else "votes"
    return (
        f"it won {tally.wins} of {tally.decisive} decisive {votes} ({others}), so between {told.lower:.1%} and"
        f" {told.upper:.1%} in the long run"
    )


def _wire_said(name: Tripwire, wire: Comparison) -> str:
    if name == "first_token":
        return (
            f"its median time to the first token is above {wire.canary.lower:.3f} s, live's below"
            f" {wire.live.upper:.3f} s; {wire.limit:.3f} s are the most"
        )
    words = {"errors": "errors", "empty": "empty answers", "refusals": "refusals"}
    return (
        f"its share of {words[name]} is {wire.canary.value:.1%} and above {wire.canary.lower:.1%} in the long run,"
        f" live's {wire.live.value:.1%} and below {wire.live.upper:.1%}; {wire.limit:.1%} are the most"
    )


def _numbers(
    rules: CanaryRules, tally: Tally, told: Evidence, wires: Mapping[Tripwire, Comparison], age_s: float
) -> dict[str, Any]:
    return {
        "votes": tally.model_dump()
        | {
            "decisive": tally.decisive,
            "win_share": round(tally.wins / tally.decisive, 6) if tally.decisive else None,
            "score_with_ties_as_halves": tally.score_with_ties_as_halves,
            "lower": round(told.lower, 6),
            "upper": round(told.upper, 6),
            "log_e_better": round(told.log_e_better, 6),
            "log_e_worse": round(told.log_e_worse, 6),
            "log_e_needed": round(math.log(1 / rules.alpha), 6),
        },
        "tripwires": {name: wire.row() for name, wire in wires.items()},
        "age_s": round(age_s, 3),
        "rules": rules.model_dump(),
    }
