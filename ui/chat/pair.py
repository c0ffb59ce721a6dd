"""Two answers side by side: as both are being written, and to choose from. Pure and blind: no ids, no versions."""

from ui.chat.desk import Comparing, Draft, Writing
from ui.markup import answer_html

_LEFT = ("left", "Left", "Upper")
_RIGHT = ("right", "Right", "Lower")
_CHOICES = (
    ("left", "Left is better", "Upper is better"),
    ("right", "Right is better", "Lower is better"),
    ("tie", "About the same", ""),
    ("both_bad", "Both bad", ""),
)


def duel_html(writing: Writing) -> str:
    """Both answers as far as they have come. There is nothing to press before both are whole."""
    first, second = writing.drafts
    sides = _draft_html(_LEFT, first) + _draft_html(_RIGHT, second)
    return (
        '<section class="compare writing" aria-busy="true" aria-labelledby="compare-title">'
        '<h2 id="compare-title">Two answers to compare</h2>'
        f'<div class="sides">{sides}</div><p class="faint">When both are done, say which is better.</p></section>'
    )


def comparing_html(comparing: Comparing) -> str:
    """Both answers, whole, and the buttons."""
    showing = comparing.showing
    buttons = "".join(
        f'<button class="button choice" type="button" data-act="vote" data-choice="{choice}" data-key="{key}">'
        f'<kbd aria-hidden="true">{key}</kbd>{_wide_or_narrow(wide, narrow)}</button>'
        for key, (choice, wide, narrow) in enumerate(_CHOICES, start=1)
    )
    kept = _wide_or_narrow("left", "upper") if showing.is_duel else "earlier"
    return (
        '<section class="compare" aria-labelledby="compare-title">'
        '<h2 id="compare-title" tabindex="-1" data-focus="compare">Which answer is better?</h2>'
        f'<div class="sides">{_side_html(_LEFT, showing.left.answer)}{_side_html(_RIGHT, showing.right.answer)}</div>'
        f'<div class="choices" role="group" aria-label="Your choice">{buttons}</div>'
        '<p class="faint"><span class="on-wide">Keys 1 to 4 work too. </span>'
        f'<button class="link" type="button" data-act="skip">Skip, and keep the {kept} answer</button></p></section>'
    )


def _draft_html(side: tuple[str, str, str], draft: Draft) -> str:
    return _side_html(side, draft.text, "" if draft.finish_reason else ' <span class="pulse"></span>')


def _side_html(side: tuple[str, str, str], answer: str, mark: str = "") -> str:
    name, wide, narrow = side
    return (
        f'<article class="side" data-side="{name}"><h3>{_wide_or_narrow(wide, narrow)}{mark}</h3>'
        f'<div class="prose">{answer_html(answer)}</div></article>'
    )


def _wide_or_narrow(wide: str, narrow: str) -> str:
    """On a narrow screen the answers stand one above the other, and are named so."""
    return f'<span class="on-wide">{wide}</span><span class="on-narrow">{narrow}</span>' if narrow else wide
