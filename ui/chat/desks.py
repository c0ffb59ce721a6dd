"""The desks of all open tabs, by browser session and visitor; the ones longest unused are given up first."""

from collections import OrderedDict
from typing import Any

import gradio as gr

from ui.chat.desk import Desk, Given, Notice
from ui.chat.kept import read_kept
from ui.errors import UiError, UnknownVisitor, sentence
from ui.visitor import Visitors

MOST_DESKS = 5_000


class Desks:
    """A desk that was given up, or lost with a restart, is restored from the ledger when its tab speaks again."""

    def __init__(self, given: Given, visitors: Visitors) -> None:
        self._given = given
        self._visitors = visitors
        self._desks: OrderedDict[tuple[str, str], Desk] = OrderedDict()

    async def of(self, request: gr.Request, kept: Any, *, fresh: bool = False) -> Desk:
        """The tab's desk; UnknownVisitor without a cookie of ours. `fresh` restores it anew, as on a page load."""
        visitor = self._visitors.name_in(request.cookies)
        if not request.session_hash:
            raise UnknownVisitor("session")
        place = (request.session_hash, visitor)
        desk = self._desks.get(place)
        if desk is None or fresh:
            if desk is not None:
                desk.leave()
            desk = self._desks[place] = Desk(self._given, visitor)
        self._desks.move_to_end(place)
        while len(self._desks) > MOST_DESKS:
            self._desks.popitem(last=False)[1].leave()
        if not desk.restored:
            await _restore(desk, kept)
        return desk


async def _restore(desk: Desk, kept: Any) -> None:
    """Until it succeeds, every event of the tab tries again."""
    try:
        await desk.restore(read_kept(kept))
    except UiError as error:
        desk.notice = Notice(sentence(error), bad=True)
