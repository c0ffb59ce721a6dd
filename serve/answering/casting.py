"""Who answers a request: the version it names, the live one, the canary, or live and canary both. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from feedback.ids import TenantId
from feedback.policies import Policy, RegistryView, resolve, sided
from serve.requests.chat_request import Asked

Draw = Callable[[], float]
"""A number from 0 up to 1, drawn by chance."""


@dataclass(frozen=True)
class Cast:
    """One policy, or the two of a duel in the order in which they are shown.

    `on_trial` says that chance gave the request to its policies, so that what becomes of it may be compared.
    """

    policies: tuple[Policy, ...]
    on_trial: bool = False

    @property
    def is_duel(self) -> bool:
        return len(self.policies) > 1


def cast(
    view: RegistryView, asked: Asked, tenant: TenantId, *, operator: bool, is_loaded: Callable[[Policy], bool]
) -> Cast:
    """Who answers, as long as it is not drawn for a duel. UnknownPolicy where the request names nothing that may."""
    canary = view.canary
    if asked.model != view.line or canary is None or not is_loaded(canary):
        return Cast((resolve(view, asked.model, operator=operator),))
    side = _side(asked, tenant)
    if side is None:
        return Cast((view.policy(view.live),))
    return Cast((sided(view, side),), on_trial=True)


def drawn(view: RegistryView, asked: Asked, settled: Cast, draw: Draw) -> Cast:
    """The duel that a request is drawn for, else what was settled. Decided before anything of an answer is known.

    Only requests that allow it are drawn, ask for one kept answer, and are no second answer themselves.
    """
    canary, live = view.canary, view.policy(view.live)
    may = asked.may_duel and asked.store and asked.n == 1 and asked.compare_with is None
    if not may or not settled.on_trial or canary is None or canary.trial is None:
        return settled
    if draw() >= canary.trial.rules.duel_share:
        return settled
    return Cast((live, canary) if draw() < 0.5 else (canary, live), on_trial=True)


def _side(asked: Asked, tenant: TenantId) -> str | None:
    """What fixes a request's side: its conversation, else its person; without either there is nothing to stay with."""
    if asked.session is not None:
        return f"{tenant}\0session\0{asked.session}"
    return None if asked.user is None else f"{tenant}\0user\0{asked.user}"
