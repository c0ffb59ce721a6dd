"""The chat page: Gradio's wiring between the parts on screen and the acts on a desk. `view` draws it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

from ui import frame
from ui.chat import asking, view
from ui.chat.acts import act, place
from ui.chat.conversations import conversations
from ui.chat.desk import Desk, Notice
from ui.chat.desks import Desks
from ui.errors import UiError, sentence
from ui.gateway import ChatGateway
from ui.theme import script

Draw = list[Any]
Steps = Callable[[Desk], asking.Steps]
PROGRESS_EVERY_S = 20.0
QUICK_AT_ONCE = 32


class ChatPage:
    """Builds the page, and answers its events. Every event finds its desk through the visitor's cookie."""

    def __init__(self, desks: Desks, gateway: ChatGateway, *, streams: int) -> None:
        self._desks = desks
        self._gateway = gateway
        self._streams = streams

    def build(self) -> gr.Blocks:
        page: gr.Blocks
        with gr.Blocks(title="Burnish", analytics_enabled=False, fill_width=True) as page:
            self._lay_out()
            self._wire(page)
        page.queue(max_size=1000, api_open=False)
        return page

    def _lay_out(self) -> None:
        # The "secret" is sent to every browser: it keeps what is stored readable over restarts, and hides nothing.
        self.kept = gr.BrowserState({}, storage_key="burnish.kept", secret="burnish-kept-v01")  # noqa: S106
        self.timer = gr.Timer(PROGRESS_EVERY_S)
        with gr.Row(elem_id="shell"):
            with gr.Column(elem_id="side", scale=0, min_width=0):
                gr.HTML(frame.brand_html(), elem_id="brand", js_on_load=None, apply_default_css=False)
                self.side = _part("list")
                self.progress = gr.HTML("", elem_id="progress", js_on_load=None, apply_default_css=False)
                gr.HTML(frame.foot_html(), elem_id="foot", js_on_load=None, apply_default_css=False)
            with gr.Column(elem_id="main", scale=1, min_width=0):
                gr.HTML(frame.bar_html(), elem_id="bar", js_on_load=None, apply_default_css=False)
                self.talk = _part("talk")
                self.live = _part("live")
                self.notice = _part("notice")
                with gr.Row(elem_id="composer"):
                    self.box = gr.Textbox(
                        lines=1, max_lines=10, show_label=False, label="Your message", container=False, scale=1,
                        placeholder="Ask something", elem_id="box", autofocus=True, max_length=32_000,
                    )  # fmt: skip
                    self.send = gr.Button("Send", variant="primary", elem_id="send", scale=0, min_width=84)
                    self.stop = gr.Button("Stop", elem_id="stop", scale=0, min_width=84, visible=False)

    def _wire(self, page: gr.Blocks) -> None:
        drawn = [self.side, self.talk, self.live, self.notice, self.send, self.stop, self.kept]
        with_box = [*drawn, self.box]
        common: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple",
        }  # fmt: skip
        slow = common | {"concurrency_limit": self._streams, "concurrency_id": "answers"}
        quick = common | {"concurrency_limit": QUICK_AT_ONCE, "concurrency_id": "quick"}
        page.load(self._on_load, [self.kept], drawn, **quick)
        gr.on([self.box.submit, self.send.click], self._on_send, [self.kept, self.box], with_box, **slow)
        self.stop.click(self._on_stop, [self.kept], drawn, **quick)
        for part in (self.side, self.talk, self.live, self.notice):
            part.submit(self._on_act, [self.kept, self.box], with_box, **quick)
        for part in (self.talk, self.live):
            part.retry(self._on_slow_act, [self.kept], drawn, **slow)
        gr.on([page.load, self.timer.tick, self.notice.change], self._on_tick, None, [self.progress], **quick)

    async def _on_load(self, kept: Any, request: gr.Request) -> Draw:
        try:
            return _draw(await self._desks.of(request, kept, fresh=True))
        except UiError as error:
            return _trouble(error)

    async def _on_stop(self, kept: Any, request: gr.Request) -> Draw:
        try:
            desk = await self._desks.of(request, kept)
        except UiError as error:
            return _trouble(error)
        asking.stop(desk)
        return [gr.skip()] * len(_draw(desk))

    async def _on_send(self, kept: Any, text: str, request: gr.Request) -> AsyncGenerator[Draw, None]:
        """The box is emptied once the message stands in the conversation, and not before."""
        taken = False
        async with aclosing(self._steps(kept, request, lambda desk: asking.send(desk, text))) as steps:
            async for desk, drawn in steps:
                taking = desk is not None and desk.writing is not None and not taken
                taken = taken or taking
                yield [*drawn, "" if taking else gr.skip()]

    async def _on_slow_act(self, kept: Any, request: gr.Request, event: gr.EventData) -> AsyncGenerator[Draw, None]:
        said = _said(event)
        acts: dict[str, Steps] = {
            "regenerate": asking.regenerate,
            "resend": asking.resend,
            "change_message": lambda desk: asking.change_message(desk, place(said), str(said.get("text", ""))),
        }
        if said.get("act") not in acts:
            return
        async with aclosing(self._steps(kept, request, acts[said["act"]])) as steps:
            async for _, drawn in steps:
                yield drawn

    async def _steps(
        self, kept: Any, request: gr.Request, begin: Steps
    ) -> AsyncGenerator[tuple[Desk | None, Draw], None]:
        """Everything first and last; in between only the answer being written."""
        try:
            desk = await self._desks.of(request, kept)
        except UiError as error:
            yield None, _trouble(error)
            return
        writing = None
        async with aclosing(begin(desk)) as steps:
            async for _ in steps:
                going_on = desk.writing is not None and desk.writing is writing
                writing = desk.writing
                yield desk, _draw_live(desk) if going_on else _draw(desk)
        yield desk, _draw(desk)

    async def _on_act(self, kept: Any, box: str, request: gr.Request, event: gr.EventData) -> Draw:
        """What is quick. An undone message goes back into the box, unless something is written there."""
        text = ""
        try:
            desk = await self._desks.of(request, kept)
        except UiError as error:
            return [*_trouble(error), gr.skip()]
        try:
            text = await act(desk, _said(event))
        except UiError as error:
            desk.notice = Notice(sentence(error), bad=True)
        return [*_draw(desk), text if text and not (box or "").strip() else gr.skip()]

    async def _on_tick(self) -> Any:
        try:
            return frame.progress_html(await self._gateway.progress())
        except UiError:
            return gr.skip()


def _part(name: str) -> gr.HTML:
    """A part of the page that the server draws and that speaks back through the bridge."""
    return gr.HTML("", elem_id=name, js_on_load=script("bridge.js"), apply_default_css=False)


def _said(event: gr.EventData) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


def _draw(desk: Desk) -> Draw:
    listed = conversations(desk.turns, undone=desk.kept.undone, hidden=desk.kept.hidden)
    writing = desk.writing is not None
    return [
        view.side_html(listed, desk.session),
        view.talk_html(desk),
        view.live_html(desk),
        view.notice_html(desk.notice),
        gr.update(visible=not writing),
        gr.update(visible=writing),
        desk.remembered().as_json(),
    ]


def _draw_live(desk: Desk) -> Draw:
    drawn = [gr.skip()] * 7
    drawn[2] = view.live_html(desk)
    return drawn


def _trouble(error: UiError) -> Draw:
    drawn: Draw = [gr.skip()] * 7
    drawn[3] = view.notice_html(Notice(sentence(error), bad=True))
    return drawn
