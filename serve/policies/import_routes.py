"""`POST /operator/policies`: an adapter from the imports folder becomes a candidate."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import StringConstraints

from feedback.access_keys import Scope
from serve.access.doors import needs
from serve.adapters.import_files import FOLDER_NAME
from serve.adapters.imports import Importer, Order
from serve.policies.policy_routes import Reason, why_of


class Import(Reason):
    """`directory` is the name of a folder in the imports folder; `base_digest`, where it is known, is compared."""

    directory: Annotated[str, StringConstraints(pattern=FOLDER_NAME)]
    base_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


def import_routes(importer: Importer) -> APIRouter:
    router = APIRouter(prefix="/operator", tags=["operator"])

    @router.post("/policies", status_code=201)
    @needs(Scope.operator)
    async def import_policy(request: Request, response: Response, wanted: Import) -> dict[str, Any]:
        order = Order(wanted.directory, why_of(request, wanted), wanted.base_digest)
        policy, is_new = await importer.bring_in(order)
        response.status_code = 201 if is_new else 200
        return {**policy.model_dump(mode="json"), "already": not is_new}

    return router
