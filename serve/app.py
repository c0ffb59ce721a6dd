"""The gateway's composition root: `python -m serve.app` takes its parts (`parts`), hangs up its routes, and listens.

Starts in any order with its neighbours: it listens at once and /readyz tells what it still waits for.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from feedback.access_keys import Scope
from serve.access.body_limit import BodyLimit
from serve.access.doors import hang_doors, needs
from serve.access.http_protocol import BoundedHttp
from serve.access.key_files import make_key_files
from serve.access.request_id import RequestId
from serve.answering.chat import ChatParts, Completions
from serve.answering.stopping import GracefulServer
from serve.error_pages import install_error_pages
from serve.health import health_routes
from serve.job_routes import Training, job_routes
from serve.model_routes import model_routes
from serve.openapi import Bounds, openapi_route
from serve.parts import Parts, build_parts
from serve.policies.canary_routes import canary_routes
from serve.policies.import_routes import import_routes
from serve.policies.policy_routes import policy_routes
from serve.requests.chat_request import Kind
from serve.settings import Settings
from serve.turn_routes import turn_routes
from serve.vote_routes import vote_routes

log = logging.getLogger(__name__)
_FLUSH_S = 5.0


def build_app(parts: Parts) -> FastAPI:
    """The routes, each behind its door, and the lifespan that starts and stops the parts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.turn_log.start()
        loops = [*parts.fleet.open(), asyncio.create_task(parts.watch.run()), asyncio.create_task(parts.judge.run())]
        yield
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await parts.limiter.quotas.close(_FLUSH_S)
        await parts.turn_log.close(_FLUSH_S)
        await parts.fleet.close()

    app = FastAPI(title="Burnish", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.router.routes += _completion_routes(parts)
    for router in (
        model_routes(parts.watch, parts.fleet),
        vote_routes(parts.ledger, parts.turn_log, parts.metrics),
        turn_routes(parts.ledger, parts.trials.duels),
        policy_routes(parts.watch, parts.fleet, parts.promotion, parts.registry),
        import_routes(parts.importer),
        canary_routes(parts.watch, parts.trials, parts.promotion, parts.settings.canary),
        job_routes(Training(parts.ledger, parts.jobs, parts.base_digest)),
        health_routes(parts.watch, parts.fleet, parts.turn_log, parts.metrics),
    ):
        app.include_router(router)
    app.router.routes.append(openapi_route(lambda: app.routes, lambda: _bounds(parts)))
    hang_doors(app.routes, parts.ring)
    install_error_pages(app)
    app.add_middleware(BodyLimit, max_bytes=parts.settings.gateway.max_body_bytes)
    app.add_middleware(RequestId)
    return app


def _bounds(parts: Parts) -> Bounds:
    return Bounds(parts.settings.gateway.max_n, parts.fleet.max_model_len)


def _completion_routes(parts: Parts) -> list[BaseRoute]:
    """Plain routes: every token passes here, and nothing of FastAPI's is wanted on its way."""
    chat = ChatParts(
        parts.settings.gateway,
        parts.watch,
        parts.fleet,
        parts.ledger,
        parts.turn_log,
        parts.metrics,
        parts.trials.duels,
        parts.meter,
        parts.limiter,
    )
    paths: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
    return [
        Route(path, needs(Scope.chat)(Completions(kind, chat)), methods=["POST"], name=kind)
        for path, kind in paths.items()
    ]


async def serve(settings: Settings) -> None:
    """Listens until SIGTERM or SIGINT; running answers are given time to end."""
    make_key_files(settings.home)
    await wait_for_model(settings.model_path)
    parts = build_parts(settings)
    config = uvicorn.Config(
        build_app(parts),
        host=settings.gateway.host,
        port=settings.gateway.port,
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_config=None,
    )
    await GracefulServer(config, settings.gateway.stop_s, parts.fleet.hang_up).serve()


async def wait_for_model(model_path: Path) -> None:
    """The model's digest names the base that policies belong to; its conversion writes it last."""
    digest = model_path / "digest.txt"
    if not digest.exists():
        log.warning("waiting for %s: the model is not converted yet (`make up` does it)", digest)
    while not digest.exists():  # noqa: ASYNC110 - another process makes the file
        await asyncio.sleep(1)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvloop.run(serve(Settings.read_or_exit()))


if __name__ == "__main__":
    main()
