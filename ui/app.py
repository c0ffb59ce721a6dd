"""The page's process: `python -m ui.app`. Builds everything once, waits for the gateway, then serves."""

import asyncio
import logging
import os
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import aiohttp
import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, RedirectResponse

from ui.chat.compare import Draw, draw_side
from ui.chat.desk import Given
from ui.chat.desks import Desks
from ui.chat.page import ChatPage
from ui.errors import GatewayAway, GatewayRefused
from ui.front import Front
from ui.gateway import ChatGateway, OperatorGateway, Wire
from ui.settings import Settings
from ui.status.operators import Operators
from ui.status.page import StatusPage
from ui.theme import gradio_theme, head, script
from ui.visitor import Visitors, load_secret

log = logging.getLogger("burnish.ui")
WAIT_S = 0.5


async def serve(settings: Settings, draw: Draw = draw_side) -> None:
    """Serve until told to stop. `draw` says which side the older of two answers stands on."""
    page_key = await _page_key(settings.page_key_path)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        wire = Wire(http, settings.gateway_url)
        await _gateway_answers(ChatGateway(wire, page_key), settings.gateway_url)
        app = build_app(settings, wire, page_key, draw)
        config = uvicorn.Config(
            app, host=settings.ui.host, port=settings.ui.port, log_level="warning", timeout_graceful_shutdown=3
        )
        log.info("the page is at http://%s:%d", settings.ui.host, settings.ui.port)
        await uvicorn.Server(config).serve()


def build_app(settings: Settings, wire: Wire, page_key: str, draw: Draw) -> FastAPI:
    """Both pages, mounted, behind the front."""
    visitors = Visitors(load_secret(settings.cookie_secret_path), secure=settings.ui.secure_cookie)
    gateway = ChatGateway(wire, page_key)
    desks = Desks(given(settings, gateway, draw), visitors)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Front, visitors=visitors)
    app.add_route("/healthz", _healthy)
    app.add_route("/status", _to_status)
    _mount(app, StatusPage(OperatorGateway(wire), Operators(visitors)).build(), "/status", "status.css")
    _mount(app, ChatPage(desks, gateway, streams=settings.ui.streams).build(), "/", "chat.css")
    return app


def given(settings: Settings, gateway: ChatGateway, draw: Draw) -> Given:
    """What the desks chat with."""
    sampling = {name: getattr(settings.ui, name) for name in ("max_tokens", "temperature", "top_p")}
    return Given(gateway, settings.line.name, sampling, draw)


def _mount(app: FastAPI, page: gr.Blocks, path: str, sheet: str) -> None:
    gr.mount_gradio_app(
        app, page, path, footer_links=[], run_history=False, show_error=False, max_file_size="1kb", ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=False, theme=gradio_theme(), head=head("base.css", sheet),
        js=script("page.js"),
    )  # fmt: skip


async def _healthy(request: object) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def _to_status(request: object) -> RedirectResponse:
    return RedirectResponse("/status/", 307)


async def _page_key(path: Path) -> str:
    """The page's key, made by the gateway at its first start."""
    told = False
    while True:
        key = await asyncio.to_thread(_text_in, path)
        if key:
            return key
        if not told:
            log.warning("waiting for the page's key in %s; the gateway makes it when it starts", path)
            told = True
        await asyncio.sleep(WAIT_S)


def _text_in(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


async def _gateway_answers(gateway: ChatGateway, url: str) -> None:
    told = False
    while True:
        try:
            await gateway.check()
            return
        except GatewayRefused as error:
            if error.status not in (401, 403):
                return
            raise SystemExit(f"the gateway at {url} does not take the page's key: {error.message}") from error
        except GatewayAway:
            if not told:
                log.warning("waiting for the gateway at %s", url)
                told = True
            await asyncio.sleep(WAIT_S)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(Settings.read_or_exit()))


if __name__ == "__main__":
    main()
