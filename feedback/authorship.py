"""Who says a statement, and whether it is about what is theirs and makes sense of it. Pure."""

from collections.abc import Mapping

from feedback.errors import StatementRefused, UnknownEvent, UnknownTurn
from feedback.events import Aspect, Comparison, Edit, Event, Rating, Retract, Source, turns_named
from feedback.ids import TenantId, TurnId, UserId
from feedback.turns import Turn, answer_one_prompt


def retractor(said: Retract, tenant: TenantId, given: UserId | None, target: Event | None) -> UserId | None:
    """The person who takes `target` back: the one who said it. UnknownEvent when it is not theirs, or not there."""
    if target is None or target.tenant != tenant or given not in (None, target.user):
        raise UnknownEvent(f"there is no event {said.event_id!r}")
    return target.user


def author(
    said: Rating | Comparison | Edit | Aspect, tenant: TenantId, given: UserId | None, kept: Mapping[TurnId, Turn]
) -> UserId | None:
    """The person who speaks about turns: the one given, else the turn's.

    `kept` holds those of the turns named that are still there. UnknownTurn when one is not, or is another tenant's
    or (where a human speaks) another person's; StatementRefused when the statement makes no sense of them.
    """
    named = turns_named(said)
    for turn_id in named:
        turn = kept.get(turn_id)
        if turn is None or turn.tenant != tenant:
            raise unknown_turn(turn_id)
        if said.source is Source.human and turn.user is not None and given not in (None, turn.user):
            raise unknown_turn(turn_id)
    turns = [kept[turn_id] for turn_id in named]
    if isinstance(said, Comparison) and not answer_one_prompt(turns[0], turns[1]):
        raise StatementRefused(f"{named[0]} and {named[1]} answer different prompts; compare answers to one prompt")
    if isinstance(said, Edit) and said.text.strip() == turns[0].answer.strip():
        raise StatementRefused(f"the edit of {named[0]} changes nothing; send the text it should have said")
    return given if given is not None else turns[0].user


def unknown_turn(turn_id: str) -> UnknownTurn:
    return UnknownTurn(f"there is no turn {turn_id!r}")
