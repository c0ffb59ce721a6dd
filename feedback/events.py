"""What people say about turns: the statements a caller may send and the event that keeps one.

Shapes only. Which events still stand is `standing`'s to say, what they teach is `pairs`'.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

from feedback.ids import EventId, TenantId, TurnId, UserId

Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Comment = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]
Person = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]
AspectName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]

OVERALL = "overall"
"""The aspect that answers are compared in where nothing else is said."""


class Source(StrEnum):
    """Who speaks: a person, another model asked to judge, or a simulated user of a test."""

    human = "human"
    judge = "judge"
    simulated = "simulated"


class Verdict(StrEnum):
    first = "first"
    second = "second"
    tie = "tie"
    both_bad = "both_bad"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shown(_Frozen):
    """How two answers were shown: which stood left, whether both came at once, and for how long (ms)."""

    left: Id
    mode: Literal["at_once", "regenerate"]
    ms: int | None = Field(default=None, ge=0, le=7 * 24 * 3600 * 1000)


class _Said(_Frozen):
    user: Person | None = None
    source: Source = Source.human
    shown: Shown | None = None


class Rating(_Said):
    """A thumb, with reasons to choose from and a comment in free words."""

    kind: Literal["rating"]
    turn_id: Id
    value: Literal["up", "down"]
    reasons: tuple[Reason, ...] = Field(default=(), max_length=12)
    comment: Comment | None = None


class Comparison(_Said):
    """Which of two answers to one prompt is better. `first` and `second` are places in `turn_ids`, not on screen."""

    kind: Literal["comparison"]
    turn_ids: tuple[Id, Id]
    verdict: Verdict
    reasons: tuple[Reason, ...] = Field(default=(), max_length=12)
    comment: Comment | None = None

    @model_validator(mode="after")
    def _two_turns(self) -> "Comparison":
        if self.turn_ids[0] == self.turn_ids[1]:
            raise ValueError(f"turn_ids names {self.turn_ids[0]!r} twice; compare two different turns")
        if self.shown is not None and self.shown.left not in self.turn_ids:
            raise ValueError(f"shown.left {self.shown.left!r} is not one of turn_ids")
        return self


class Edit(_Said):
    """What the answer should have said."""

    kind: Literal["edit"]
    turn_id: Id
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=32_000)]


class Aspect(_Said):
    """How good an answer is in one respect, say `overall`, `helpful`, `harmless` or `honest`: from 1 (worst) to 5."""

    kind: Literal["aspect"]
    turn_id: Id
    name: AspectName
    score: int = Field(ge=1, le=5, strict=True)


class Retract(_Said):
    """Takes an earlier event back."""

    kind: Literal["retract"]
    event_id: Id


Statement = Annotated[Rating | Comparison | Edit | Aspect | Retract, Field(discriminator="kind")]
STATEMENT: TypeAdapter[Statement] = TypeAdapter(Statement)


class Event(_Frozen):
    """One thing a person said, as the ledger keeps it.

    `ordinal` counts the line's events from 1 in the order they were accepted; `at` is in Unix seconds.
    """

    id: EventId
    ordinal: int
    at: float
    tenant: TenantId
    user: UserId | None
    said: Statement


def turns_named(said: Statement) -> tuple[TurnId, ...]:
    """The turns a statement is about; none for a retraction."""
    if isinstance(said, Comparison):
        return (TurnId(said.turn_ids[0]), TurnId(said.turn_ids[1]))
    if isinstance(said, Retract):
        return ()
    return (TurnId(said.turn_id),)
