"""What a click in the chat page means: the browser's word for it → the act on the desk.

The browser names places on screen and gives texts; whatever else it sends is dropped.
"""

from typing import Any

from ui.chat import voting
from ui.chat.compare import Choice
from ui.chat.desk import Desk, Panel

Said = dict[str, Any]


async def act(desk: Desk, said: Said) -> str:
    """Carry it out; the text that goes back into the message box is returned. UiError when the gateway says no."""
    name = str(said.get("act"))
    if name in _LOCAL:
        return _LOCAL[name](desk, said) or ""
    if name in ("up", "down"):
        await voting.rate(desk, place(said), "up" if name == "up" else "down")
    elif name == "explain":
        reasons = said.get("reasons")
        chosen = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
        await voting.explain(desk, place(said), chosen, _text(said))
    elif name == "correct_with":
        await voting.correct(desk, place(said), _text(said))
    elif name == "vote" and said.get("choice") in set(Choice):
        await voting.vote(desk, Choice(said["choice"]))
    elif name == "take_back" and desk.notice is not None and desk.notice.said is not None:
        await voting.take_back(desk, desk.notice.said)
    elif name == "open":
        await _open(desk, said)
    return ""


def place(said: Said) -> int:
    """Which message on screen is meant; -1 for none."""
    at = str(said.get("at", ""))
    return int(at) if at.isascii() and at.isdigit() and len(at) < 6 else -1


def _text(said: Said) -> str:
    text = said.get("text")
    return text if isinstance(text, str) else ""


async def _open(desk: Desk, said: Said) -> None:
    """Only a conversation of the person's own can be opened: ids are looked up among their turns."""
    session = said.get("session")
    if session != desk.session and any(turn.session == session for turn in desk.turns):
        await desk.open(str(session))


def _new(desk: Desk, said: Said) -> None:
    desk.new()


def _hide(desk: Desk, said: Said) -> None:
    session = said.get("session")
    if any(turn.session == session for turn in desk.turns):
        desk.hide(str(session))


def _undo(desk: Desk, said: Said) -> str:
    return desk.undo() if desk.writing is None else ""


def _skip(desk: Desk, said: Said) -> None:
    desk.skip()


def _panel(desk: Desk, said: Said) -> None:
    at = place(said)
    if not 0 <= at < len(desk.on_screen()):
        return
    wanted = Panel("message" if said.get("act") == "edit_message" else "correct", at)
    desk.panel = None if desk.panel == wanted else wanted


def _close_panel(desk: Desk, said: Said) -> None:
    desk.panel = None


def _close_notice(desk: Desk, said: Said) -> None:
    desk.notice = None


_LOCAL = {
    "new": _new,
    "hide": _hide,
    "undo": _undo,
    "skip": _skip,
    "edit_message": _panel,
    "correct": _panel,
    "close_panel": _close_panel,
    "close_notice": _close_notice,
}
