"""The status page: Gradio's wiring for operators. Each event finds the operator's key anew and uses it at the gateway,
so that a call from anywhere without a valid key gets nothing.
"""

import asyncio
from collections import OrderedDict
from typing import Any, get_args

import gradio as gr

from ui.errors import NotSignedIn, UiError, sentence
from ui.frame import theme_toggle_html
from ui.gateway import OperatorGateway
from ui.status import view
from ui.status.canary import canary_html
from ui.status.console import Asked, Console, Facts, Move, carry_out, look
from ui.status.operators import Operators
from ui.status.versions import audit_html, policies_html
from ui.theme import script

Draw = list[Any]
EVERY_S = 2.0
WRONG_KEY_PAUSE_S = 0.5
MOST_CONSOLES = 500
AT_ONCE = 16
_PARTS = ("overview", "ask", "told", "canary", "training", "policies", "audit")
_DRAWN = 2 + len(_PARTS)


class StatusPage:
    """Builds the page, and answers its events."""

    def __init__(self, gateway: OperatorGateway, operators: Operators) -> None:
        self._gateway = gateway
        self._operators = operators
        self._consoles: OrderedDict[str, Console] = OrderedDict()

    def build(self) -> gr.Blocks:
        page: gr.Blocks
        with gr.Blocks(title="Burnish status", analytics_enabled=False, fill_width=True) as page:
            self._lay_out()
            self._wire(page)
        page.queue(max_size=500, api_open=False)
        return page

    def _lay_out(self) -> None:
        self.timer = gr.Timer(EVERY_S)
        with gr.Column(elem_id="status"):
            with gr.Row(elem_id="top"):
                gr.HTML(
                    f'<a class="brand" href="/">Burnish</a><h1>Status</h1>{theme_toggle_html()}',
                    elem_id="title", js_on_load=None, apply_default_css=False,
                )  # fmt: skip
                self.sign_out = gr.Button("Sign out", elem_id="sign-out", visible=False, scale=0, min_width=96)
            with gr.Column(elem_id="sign-in", visible=False) as self.gate:
                gr.HTML("<h2>For operators</h2><p>Give an operator key. It stays in this server's memory.</p>")
                self.key = gr.Textbox(type="password", label="Operator key", max_lines=1, elem_id="key")
                self.sign_in = gr.Button("Sign in", variant="primary", elem_id="sign-in-button")
            self.parts = {name: _part(name) for name in _PARTS}

    def _wire(self, page: gr.Blocks) -> None:
        drawn = [self.gate, self.sign_out, *self.parts.values()]
        common: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private",
            "concurrency_limit": AT_ONCE, "concurrency_id": "operators",
        }  # fmt: skip
        page.load(self._on_load, None, drawn, **common)
        self.timer.tick(self._on_tick, None, drawn, **common)
        gr.on([self.sign_in.click, self.key.submit], self._on_sign_in, [self.key], [self.key, *drawn], **common)
        self.sign_out.click(self._on_sign_out, None, drawn, **common)
        for part in self.parts.values():
            part.submit(self._on_act, None, drawn, **common | {"trigger_mode": "multiple"})

    async def _on_load(self, request: gr.Request) -> Draw:
        self._consoles.pop(_session(request), None)
        return await self._draw(request)

    async def _on_tick(self, request: gr.Request) -> Draw:
        return await self._draw(request)

    async def _on_sign_in(self, key: str, request: gr.Request) -> Draw:
        """A key is held only after the gateway has taken it for an operator's. The box is emptied either way."""
        try:
            await look(self._gateway, (key or "").strip() or "none", "")
            self._operators.sign_in(request.cookies, key.strip())
        except NotSignedIn:
            await asyncio.sleep(WRONG_KEY_PAUSE_S)
            return ["", *self._signed_out(request, "This is not an operator's key.")]
        except UiError as error:
            return ["", *self._signed_out(request, sentence(error))]
        return ["", *await self._draw(request)]

    async def _on_sign_out(self, request: gr.Request) -> Draw:
        try:
            self._operators.sign_out(request.cookies)
        except UiError as error:
            return self._signed_out(request, sentence(error))
        return self._signed_out(request, "")

    async def _on_act(self, request: gr.Request, event: gr.EventData) -> Draw:
        console = self._console(request)
        said = event._data if isinstance(event._data, dict) else {}
        try:
            await self._act(console, self._operators.key_of(request.cookies), said)
        except NotSignedIn as error:
            return self._signed_out(request, sentence(error))
        except UiError as error:
            console.tell(sentence(error), bad=True)
        return await self._draw(request)

    async def _act(self, console: Console, key: str, said: dict[str, Any]) -> None:
        act = said.get("act")
        if act == "ask" and said.get("move") in get_args(Move):
            console.tell("")
            console.asked = Asked(said["move"], str(said.get("of", ""))[:64])
        elif act == "do" and console.asked is not None:
            reason = str(said.get("text", "")).strip()[:1000]
            if not reason:
                console.tell("Say why: the reason is kept.", bad=True)
                return
            recipe = str(said.get("recipe", ""))[:128]
            console.tell(await carry_out(self._gateway, key, console.asked, reason, recipe))
            console.asked = None
        elif act == "cancel":
            console.asked = None
        elif act == "hush":
            console.tell("")
        elif act == "show_job":
            console.job_id = str(said.get("job", ""))[:128]

    async def _draw(self, request: gr.Request) -> Draw:
        """Everything that changed since it was drawn last."""
        console = self._console(request)
        try:
            facts = await look(self._gateway, self._operators.key_of(request.cookies), console.job_id)
        except NotSignedIn:
            return [gr.skip()] * _DRAWN if console.signed_in is False else self._signed_out(request, "")
        except UiError as error:
            told = view.told_html(sentence(error), bad=True)
            return [gr.skip(), gr.skip(), *_changed(console, {"told": told})]
        came_in, console.signed_in = console.signed_in is not True, True
        shown = [gr.update(visible=False), gr.update(visible=True)] if came_in else [gr.skip(), gr.skip()]
        return [*shown, *_changed(console, _html(console, facts))]

    def _signed_out(self, request: gr.Request, told: str) -> Draw:
        """Nothing of the console is left on screen."""
        self._consoles[_session(request)] = Console(signed_in=False)
        parts = dict.fromkeys(_PARTS, "") | {"told": view.told_html(told, bad=True)}
        return [gr.update(visible=True), gr.update(visible=False), *parts.values()]

    def _console(self, request: gr.Request) -> Console:
        console = self._consoles.setdefault(_session(request), Console())
        self._consoles.move_to_end(_session(request))
        while len(self._consoles) > MOST_CONSOLES:
            self._consoles.popitem(last=False)
        return console


def _part(name: str) -> gr.HTML:
    return gr.HTML("", elem_id=name, js_on_load=script("bridge.js"), apply_default_css=False)


def _html(console: Console, facts: Facts) -> dict[str, str]:
    return {
        "overview": view.overview_html(facts),
        "ask": view.ask_html(console.asked, facts.schedule),
        "told": view.told_html(console.told, bad=console.told_bad),
        "training": view.training_html(facts),
        "canary": canary_html(facts.canary),
        "policies": policies_html(facts),
        "audit": audit_html(facts),
    }


def _changed(console: Console, parts: dict[str, str]) -> Draw:
    drawn: Draw = []
    for name in _PARTS:
        if name in parts and console.drawn.get(name) != parts[name]:
            console.drawn[name] = parts[name]
            drawn.append(parts[name])
        else:
            drawn.append(gr.skip())
    return drawn


def _session(request: gr.Request) -> str:
    return request.session_hash or ""
