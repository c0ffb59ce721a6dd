"""`/operator/policies`, `/operator/rollback`, `/operator/audit`: what is live, and moving it with a reason."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, StringConstraints

from feedback.access_keys import Scope
from feedback.ids import Version
from feedback.policies import Policy, RegistryView
from feedback.registry import Registry, Why
from serve.access.doors import caller_of, needs
from serve.ledger_watch import LedgerWatch
from serve.policies.promotion import Promotion
from serve.replicas.fleet import Fleet


class Reason(BaseModel):
    """Every move says why; the reason stays in the audit trail."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class Promote(Reason):
    """`over`: the version that is to be live until now, where that is what the decision rests on."""

    over: Version | None = None


def policy_routes(watch: LedgerWatch, fleet: Fleet, promotion: Promotion, registry: Registry) -> APIRouter:
    router = APIRouter(prefix="/operator", tags=["operator"])

    @router.get("/policies")
    @needs(Scope.operator)
    def list_policies() -> dict[str, Any]:
        view = registry.view()
        newest_first = sorted(view.policies.values(), key=lambda policy: -policy.counter)
        return {**standing(view), "line": view.line, "policies": [_policy_json(p, fleet) for p in newest_first]}

    @router.get("/policies/{version}")
    @needs(Scope.operator)
    def get_policy(version: str) -> dict[str, Any]:
        return _policy_json(registry.view().policy(Version(version)), fleet)

    @router.post("/policies/{version}/promote")
    @needs(Scope.operator)
    async def promote(request: Request, version: str, why: Promote) -> dict[str, Any]:
        return standing(await promotion.promote(Version(version), why_of(request, why), over=why.over))

    @router.post("/policies/{version}/withdraw")
    @needs(Scope.operator)
    async def withdraw(request: Request, version: str, why: Reason) -> dict[str, Any]:
        return standing(await promotion.withdraw(Version(version), why_of(request, why)))

    @router.post("/rollback")
    @needs(Scope.operator)
    async def rollback(request: Request, why: Reason) -> dict[str, Any]:
        return standing(await promotion.rollback(why_of(request, why)))

    @router.get("/audit")
    @needs(Scope.operator)
    def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        return {"audit": [entry.model_dump(mode="json") for entry in registry.audit(limit)]}

    return router


def standing(view: RegistryView) -> dict[str, Any]:
    """What is live now, and what a rollback would bring back."""
    return {"live": view.live, "previous": view.previous, "epoch": view.epoch}


def _policy_json(policy: Policy, fleet: Fleet) -> dict[str, Any]:
    load = fleet.load_of(policy)
    replicas = {name: each.as_json() for name, each in fleet.loads_of(policy).items()}
    return {**policy.model_dump(mode="json"), "load": load and load.as_json(), "replicas": replicas}


def why_of(request: Request, said: Reason) -> Why:
    """Who asks for a move, and why."""
    return Why(f"key {caller_of(request).key_id}", said.reason)
