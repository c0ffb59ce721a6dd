"""The small forms that open under a message. Pure; what is typed in them stays in the browser until it is sent."""

from collections.abc import Mapping, Sequence

from ui.chat.conversations import Step
from ui.chat.desk import Desk, Panel
from ui.chat.voting import DOWN_REASONS, UP_REASONS
from ui.markup import attr


def panel_html(desk: Desk, step: Step, panel: Panel) -> str:
    """The form open under an answer: why a thumb, or what it should have said."""
    if panel.kind == "correct":
        return _form(
            "correct_with",
            panel.at,
            f'<label for="correction">What it should have said</label>'
            f'<textarea id="correction" name="text" rows="{_rows(step.message.text)}" data-focus="correct-{panel.at}">'
            f"{attr(step.message.text)}</textarea>",
            "Send",
        )
    rating = desk.standing.rating(step.turn.id) if step.turn else None
    given = rating.reasons if rating else ()
    comment = rating.comment or "" if rating else ""
    reasons = UP_REASONS if panel.kind == "up" else DOWN_REASONS
    asked = "What is good about it?" if panel.kind == "up" else "What is wrong with it?"
    return _form(
        "explain",
        panel.at,
        f"<fieldset><legend>{asked}</legend>{_chips(reasons, given)}</fieldset>"
        '<label for="comment">In your own words (optional)</label>'
        f'<textarea id="comment" name="text" rows="2" maxlength="4000">{attr(comment)}</textarea>',
        "Send",
    )


def _rows(text: str) -> int:
    """Lines of a box that shows a text whole, if it is not too long."""
    return min(max(sum(1 + len(line) // 80 for line in text.split("\n")) + 1, 3), 14)


def message_form(step: Step, at: int) -> str:
    """A sent message, to be said anew."""
    return _form(
        "change_message",
        at,
        '<label for="message">Edit your message</label>'
        f'<textarea id="message" name="text" rows="{_rows(step.message.text)}" data-focus="message-{at}">'
        f"{attr(step.message.text)}</textarea>",
        "Send again",
        slow=True,
    )


def _form(act: str, at: int, fields: str, send: str, *, slow: bool = False) -> str:
    kind = "slow" if slow else "act"
    return (
        f'<form class="panel" data-{kind}="{act}" data-at="{at}">{fields}<div class="buttons">'
        f'<button class="button strong" type="submit">{send}</button>'
        '<button class="button" type="button" data-act="close_panel">Cancel</button></div></form>'
    )


def _chips(reasons: Mapping[str, str], given: Sequence[str]) -> str:
    return "".join(
        f'<label class="chip"><input type="checkbox" name="reason" value="{key}"{" checked" if key in given else ""}>'
        f"<span>{label}</span></label>"
        for key, label in reasons.items()
    )
