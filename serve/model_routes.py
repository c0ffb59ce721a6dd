"""`GET /v1/models` and `/v1/models/{id}`: the line under its own name, and each version that can be asked for now."""

from typing import Any

from fastapi import APIRouter, Request

from feedback.access_keys import Scope
from feedback.errors import UnknownPolicy
from feedback.policies import UNSERVED, Policy, RegistryView, public_id, resolve
from serve.access.doors import caller_of, needs
from serve.errors import ModelNotFound
from serve.ledger_watch import LedgerWatch
from serve.replicas.fleet import Fleet


def model_routes(watch: LedgerWatch, fleet: Fleet) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/v1/models")
    @needs(Scope.chat)
    async def list_models(request: Request) -> dict[str, Any]:
        view, operator = watch.current(), caller_of(request).is_operator
        newest_first = sorted(view.policies.values(), key=lambda policy: -policy.counter)
        cards = [_card(view, policy) for policy in newest_first if _is_listed(policy, fleet, operator)]
        return {"object": "list", "data": [{**card, **_context(fleet)} for card in (_line_card(view), *cards)]}

    @router.get("/v1/models/{model}")
    @needs(Scope.chat)
    async def get_model(model: str, request: Request) -> dict[str, Any]:
        view, operator = watch.current(), caller_of(request).is_operator
        try:
            policy = resolve(view, model, operator=operator)
        except UnknownPolicy as error:
            raise ModelNotFound(str(error), param="model") from error
        if model == view.line:
            return {**_line_card(view), **_context(fleet)}
        if not _is_listed(policy, fleet, operator):
            raise ModelNotFound(f"{policy.version} is {policy.state} and not loaded", param="model")
        return {**_card(view, policy), **_context(fleet)}

    return router


def _is_listed(policy: Policy, fleet: Fleet, operator: bool) -> bool:
    """Whether a request for it would be answered; the bare base is always meant to be."""
    if policy.adapter is None:
        return True
    return fleet.is_loaded(policy) and (operator or policy.state not in UNSERVED)


def _context(fleet: Fleet) -> dict[str, int]:
    """The engines' context in tokens under vLLM's own name for it; nothing while there is no engine."""
    return {} if fleet.max_model_len is None else {"max_model_len": fleet.max_model_len}


def _line_card(view: RegistryView) -> dict[str, Any]:
    live = view.policy(view.live)
    return _model(view.line, root=public_id(view.line, live.version), created=live.created_at)


def _card(view: RegistryView, policy: Policy) -> dict[str, Any]:
    name = public_id(view.line, policy.version)
    parent = None if policy.parent is None else public_id(view.line, policy.parent)
    return _model(name, root=name, created=policy.created_at, parent=parent)


def _model(name: str, *, root: str, created: float, parent: str | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created),
        "owned_by": "burnish",
        "root": root,
        "parent": parent,
    }
