"""`/operator/canary` and the moves that begin and end it: what is tried out on users, and how it stands by now."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError

from feedback.access_keys import Scope
from feedback.canary import CanaryRules
from feedback.ids import Version
from serve.access.doors import needs
from serve.errors import BadRequest
from serve.ledger_watch import LedgerWatch
from serve.policies.policy_routes import Reason, standing, why_of
from serve.policies.promotion import Promotion
from serve.policies.trials import Trials


class BeginCanary(Reason):
    """`rules` may name any of the canary's rules; the others are as in the settings."""

    rules: dict[str, Any] = Field(default_factory=dict)


def canary_routes(watch: LedgerWatch, trials: Trials, promotion: Promotion, usual: CanaryRules) -> APIRouter:
    router = APIRouter(prefix="/operator", tags=["operator"])

    @router.get("/canary")
    @needs(Scope.operator)
    def get_canary() -> dict[str, Any]:
        """The version being tried out, since when and by what rules; what its votes and its traffic come to now."""
        view = watch.current()
        canary = view.canary
        if canary is None or canary.trial is None:
            return {"canary": None}
        decision = trials.decision(canary)
        return {
            "canary": canary.version,
            "over": canary.trial.over,
            "started_at": canary.trial.started_at,
            "rules": canary.trial.rules.model_dump(mode="json"),
            "decision": decision.model_dump(mode="json"),
        }

    @router.post("/policies/{version}/canary")
    @needs(Scope.operator)
    async def begin(request: Request, version: str, said: BeginCanary) -> dict[str, Any]:
        rules = _rules(usual, said.rules)
        return standing(await promotion.begin_canary(Version(version), why_of(request, said), rules))

    @router.post("/policies/{version}/retire")
    @needs(Scope.operator)
    async def retire(request: Request, version: str, said: Reason) -> dict[str, Any]:
        return standing(await promotion.retire(Version(version), why_of(request, said)))

    return router


def _rules(usual: CanaryRules, changes: dict[str, Any]) -> CanaryRules:
    try:
        return CanaryRules.model_validate({**usual.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(("rules", *map(str, first["loc"])))
        raise BadRequest(f"{name} is {first['input']!r}: {first['msg']}", param=name) from error
