"""A desk → the HTML of the chat page's parts. Pure: text is escaped here, ids and versions never leave the desk."""

from collections.abc import Sequence

from ui.chat.conversations import STOPPED, Message, Step, Summary
from ui.chat.desk import Desk, Notice, Panel, Writing
from ui.chat.pair import comparing_html, duel_html
from ui.chat.panels import message_form, panel_html
from ui.icons import IconName, icon
from ui.markup import answer_html, attr, plain_html

EMPTY = (
    '<div class="welcome"><h1>What would you like to know?</h1><p>Ask anything. When an answer could be better, press '
    "<em>Regenerate</em> and say which of the two you prefer: the model learns from it.</p></div>"
)


def talk_html(desk: Desk) -> str:
    """The settled part of the conversation."""
    steps = desk.path.steps
    writing = desk.writing
    if writing is not None and writing.compare_with is None:
        steps = tuple(_keep_known(steps, writing.asked))
    elif desk.unsent and writing is None:
        steps = tuple(_keep_known(steps, desk.unsent))
    if not steps:
        return EMPTY
    busy = writing is not None
    items = [_step_html(desk, step, at, last=at == len(steps) - 1, busy=busy) for at, step in enumerate(steps)]
    return f'<div class="talk" role="log" aria-label="Conversation">{"".join(items)}</div>'


def live_html(desk: Desk) -> str:
    """What is happening now: an answer or two being written, two to choose from, or a message not answered."""
    if desk.writing is not None:
        return duel_html(desk.writing) if desk.writing.is_duel else _writing_html(desk.writing)
    if desk.unsent:
        return (
            '<div class="unsent"><p>This message has not been answered.</p>'
            '<button class="button" type="button" data-slow="resend">Try again</button></div>'
        )
    return comparing_html(desk.comparing) if desk.comparing is not None else ""


def notice_html(notice: Notice | None) -> str:
    """The sentence under the conversation. The empty live region stays, so that screen readers hear changes."""
    if notice is None:
        return '<div class="notice-place" role="status"></div>'
    mark = "" if notice.bad else icon("check")
    take_back = ""
    if notice.said is not None:
        take_back = '<button class="link" type="button" data-act="take_back">Take it back</button>'
    close = f'<button class="tool" type="button" data-act="close_notice" aria-label="Close">{icon("close")}</button>'
    role, tone = ("alert", "bad") if notice.bad else ("status", "good")
    body = f"{mark}<p>{plain_html(notice.text)}</p>{take_back}{close}"
    return f'<div class="notice-place" role="{role}"><div class="notice {tone}">{body}</div></div>'


def side_html(summaries: Sequence[Summary], current: str) -> str:
    """The list of conversations."""
    rows = "".join(_row_html(summary, summary.session == current) for summary in summaries)
    listed = f"<ul>{rows}</ul>" if rows else '<p class="faint">Your conversations are listed here.</p>'
    return (
        f'<button class="button wide" type="button" data-act="new">{icon("plus")} New conversation</button>'
        f'<nav aria-label="Conversations">{listed}</nav>'
    )


def _keep_known(steps: Sequence[Step], asked: Sequence[Message]) -> list[Step]:
    """The asked messages, with the turns of those that are on the path already."""
    known = dict(enumerate(steps))
    return [
        known[at] if at in known and known[at].message == message else Step(message) for at, message in enumerate(asked)
    ]


def _row_html(summary: Summary, is_current: bool) -> str:
    title = attr(summary.title or "Untitled")
    current = ' aria-current="page"' if is_current else ""
    return (
        f'<li><button class="row" type="button" data-act="open" data-session="{attr(summary.session)}"{current}>{title}'
        f'</button><button class="tool" type="button" data-act="hide" data-session="{attr(summary.session)}" '
        f'aria-label="Remove “{title}” from the list" title="Remove from the list">{icon("close")}</button></li>'
    )


def _step_html(desk: Desk, step: Step, at: int, *, last: bool, busy: bool) -> str:
    panel = desk.panel if desk.panel is not None and desk.panel.at == at else None
    if step.message.role == "user":
        return _user_html(step, at, panel)
    body = f'<div class="prose">{answer_html(step.message.text)}</div>{_remark(step)}'
    tools = _answer_tools(desk, step, at, last=last, busy=busy)
    form = panel_html(desk, step, panel) if panel is not None else ""
    return f'<article class="message answer" aria-label="Answer">{body}{tools}{form}</article>'


def _remark(step: Step) -> str:
    """What is to be said about an answer: its correction, or that it is not whole."""
    turn = step.turn
    if turn is None:
        return ""
    if step.suggested is not None:
        is_shown = step.message.text == step.suggested
        title, text = ("Corrected by you", turn.answer) if is_shown else ("Your correction", step.suggested)
        folded = f'<div class="prose">{answer_html(text)}</div>'
        return f'<details class="original"><summary>{title}</summary>{folded}</details>'
    remarks = {STOPPED: "Stopped before its end.", "length": "Cut off at the length limit."}
    remark = remarks.get(turn.finish_reason or "")
    return f'<p class="faint">{remark}</p>' if remark else ""


def _user_html(step: Step, at: int, panel: Panel | None) -> str:
    if panel is not None:
        return f'<article class="message asked editing" aria-label="You">{message_form(step, at)}</article>'
    tools = _tool("pen", "Edit this message", act="edit_message", at=at) + _copy_tool(step.message.text)
    return (
        f'<article class="message asked" aria-label="You"><div class="bubble">{plain_html(step.message.text)}</div>'
        f'<div class="tools">{tools}</div></article>'
    )


def _answer_tools(desk: Desk, step: Step, at: int, *, last: bool, busy: bool) -> str:
    tools = _copy_tool(step.message.text)
    if step.turn is not None:
        rating = desk.standing.rating(step.turn.id)
        value = rating.value if rating else None
        tools = (
            _tool("up", "Good answer", act="up", at=at, pressed=value == "up")
            + _tool("down", "Bad answer", act="down", at=at, pressed=value == "down")
            + tools
            + _tool("correct", "Say what it should have said", act="correct", at=at)
        )
    if last and step.turn is not None and not busy and desk.comparing is None:
        tools += _tool("undo", "Undo the last message", act="undo", at=at)
        tools += f'<button class="tool named" type="button" data-slow="regenerate">{icon("again")} Regenerate</button>'
    return f'<div class="tools">{tools}</div>'


def _tool(name: IconName, label: str, *, act: str, at: int, pressed: bool | None = None) -> str:
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    return (
        f'<button class="tool" type="button" data-act="{act}" data-at="{at}" aria-label="{label}" '
        f'title="{label}"{state}>{icon(name)}</button>'
    )


def _copy_tool(text: str) -> str:
    return (
        f'<button class="tool" type="button" data-copy="{attr(text)}" aria-label="Copy" title="Copy">'
        f"{icon('copy')}</button>"
    )


def _writing_html(writing: Writing) -> str:
    if writing.compare_with is not None:
        words = len(writing.text.split())
        so_far = f"{words} word{'' if words == 1 else 's'} so far" if words else "just a moment"
        return (
            '<div class="waiting" aria-busy="true"><span class="pulse"></span><p>Writing another answer '
            f'<span class="faint">({so_far}). Both are shown together when it is done.</span></p></div>'
        )
    if not writing.text:
        return '<div class="message answer" aria-busy="true"><span class="pulse"></span></div>'
    return (
        '<div class="message answer writing" aria-busy="true" aria-label="Answer being written">'
        f'<div class="prose">{answer_html(writing.text)}</div></div>'
    )
