"""The version being tried out on users: what its votes and its traffic come to by now, in figures, a bar and words.

Pure. The same figures stand in the audit trail after it ended.
"""

import html
from collections.abc import Collection, Mapping
from typing import Any

from ui.bodies import Json
from ui.status.charts import number
from ui.status.marks import ago, ask_button, version_html

Row = Mapping[str, Any]
DAY_S = 86_400.0
_COUNTS = (("wins", "Won"), ("losses", "Lost"), ("ties", "About the same"), ("both_bad", "Both bad"))
_WIRES = (
    ("errors", "Errors"),
    ("empty", "Empty answers"),
    ("refusals", "Refusals"),
    ("first_token", "Median time to first token"),
)
_KINDS: Mapping[str, tuple[str, str]] = {
    "wait": ("goes on", "accent"),
    "promote": ("goes live", "good"),
    "withdraw": ("is withdrawn", "bad"),
    "inconclusive": ("no winner", "unsure"),
}


def canary_html(standing: Json) -> str:
    """The card of the canary; nothing while there is none."""
    if not standing.get("canary"):
        return ""
    version, rules, decision = standing["canary"], standing["rules"], standing["decision"]
    word, tone = _KINDS.get(decision["kind"], (decision["kind"], "plain"))
    moves = "".join(
        ask_button(move, of=version, danger=move == "withdraw") for move in ("promote", "retire", "withdraw")
    )
    return (
        f'<section class="card canary"><h2>Canary</h2><p class="big">{version_html(version)} '
        f'<span class="badge {tone}">{html.escape(word)}</span></p>'
        f'<p class="faint">Tried out beside {version_html(standing["over"])}, begun {ago(standing["started_at"])}. '
        f"It answers {_share(rules['share'])} of all sessions; {_share(rules['duel_share'])} of the prompts that allow "
        "it are answered by both.</p>"
        f'<p class="told">{_sentence(decision["reason"])}</p>'
        f"{_votes_html(decision['numbers'])}"
        f'<p class="faint">{html.escape(needed(decision["numbers"]))}</p>'
        f"<h3>Tripwires</h3>{_wires_html(decision['numbers'], decision['fired'])}"
        f'<div class="buttons">{moves}</div></section>'
    )


def numbers_html(numbers: Row) -> str:
    """What a decision in the audit trail rests on; nothing where it rests on no votes and no traffic."""
    if "votes" not in numbers or "tripwires" not in numbers:
        return ""
    fired = [name for name, wire in numbers["tripwires"].items() if wire["fires"]]
    return f"{_votes_html(numbers)}{_wires_html(numbers, fired)}"


def needed(numbers: Row) -> str:
    """What is still missing until the canary goes live or goes away, in words."""
    votes, rules = numbers["votes"], numbers["rules"]
    told = []
    missing = rules["least_votes"] - votes["decisive"]
    if votes["lower"] < 0.5:
        told.append("It goes live once the whole interval lies above 50%, and is withdrawn once it lies below.")
    if missing > 0:
        are = "votes are" if missing > 1 else "vote is"
        told.append(f"Before it may go live, {missing} more decisive {are} needed.")
    left = max(0, rules["most_votes"] - votes["wins"] - votes["losses"] - votes["ties"] - votes["both_bad"])
    days = max(0.0, rules["most_days"] - numbers["age_s"] / DAY_S)
    waits = "waits for an operator" if rules["when_inconclusive"] == "hold" else "ends"
    if left and days:
        told.append(f"Without a winner it {waits} after {left} more votes or in {number(days)} days.")
    else:
        told.append(f"It has no winner and {waits}.")
    return " ".join(told)


def _votes_html(numbers: Row) -> str:
    votes = numbers["votes"]
    counts = "".join(f"<div><dt>{name}</dt><dd>{votes[key]}</dd></div>" for key, name in _COUNTS)
    return f'<dl class="counts">{counts}</dl>{interval_html(votes)}'


def interval_html(votes: Row) -> str:
    """The share of decisive votes that the canary won, between bounds that hold at all times, against one half."""
    share, lower, upper = votes["win_share"], votes["lower"], votes["upper"]
    tone = "good" if lower >= 0.5 else "bad" if upper <= 0.5 else "open"
    bounds = f"between {lower:.1%} and {upper:.1%} in the long run"
    told = f"{share:.1%} of decisive votes won; {bounds}" if share is not None else "No decisive vote yet"
    dot = f'<span class="dot" style="left:{100 * share:.1f}%"></span>' if share is not None else ""
    return (
        f'<figure class="interval {tone}"><div class="track" role="img" aria-label="{told}">'
        f'<span class="band" style="left:{100 * lower:.1f}%;width:{100 * (upper - lower):.1f}%"></span>'
        f'<span class="half"></span>{dot}</div><div class="scale" aria-hidden="true"><span>0%</span><span>50%</span>'
        f"<span>100%</span></div><figcaption>{told}.</figcaption></figure>"
    )


def _wires_html(numbers: Row, fired: Collection[str]) -> str:
    wires = numbers["tripwires"]
    rows = "".join(_wire_html(name, title, wires[name], fired) for name, title in _WIRES if name in wires)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Tripwires"><table class="wires"><thead><tr>'
        "<th>Figure</th><th>Canary</th><th>Live</th><th>At most</th><th>State</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _wire_html(name: str, title: str, wire: Row, fired: Collection[str]) -> str:
    seconds = name == "first_token"
    fires = ("fired", "bad") if name in fired else ("too few requests", "unsure")
    word, tone = fires if wire["fires"] else ("quiet", "good")
    canary, live = (_figure_html(wire[side], seconds=seconds) for side in ("canary", "live"))
    has_limit = wire["limit"] is not None and (seconds or wire["limit"] < 1)
    limit = _figure(wire["limit"], seconds=seconds) if has_limit else "no limit yet"
    badge = f'<span class="badge {tone}">{word}</span>'
    return (
        f'<tr><td><b>{title}</b></td><td data-name="Canary">{canary}</td><td data-name="Live">{live}</td>'
        f'<td data-name="At most">{limit}</td><td>{badge}</td></tr>'
    )


def _figure_html(interval: Row, *, seconds: bool) -> str:
    """A figure, and the bounds that hold at all times; one not shown has no upper bound."""
    if interval["value"] is None:
        return '<span class="faint">nothing yet</span>'
    lower, upper = interval["lower"], interval["upper"]
    if upper is None and not lower:
        return f'{_figure(interval["value"], seconds=seconds)}<span class="words">no bounds yet</span>'
    above = f"above {_figure(lower, seconds=seconds)}"
    bounds = above if upper is None else f"{_figure(lower, seconds=seconds)} to {_figure(upper, seconds=seconds)}"
    return f'{_figure(interval["value"], seconds=seconds)}<span class="words">{bounds}</span>'


def _figure(value: float, *, seconds: bool) -> str:
    if not seconds:
        return f"{value:.1%}"
    return f"{number(value)} s" if value >= 1 else f"{number(1000 * value)} ms"


def _share(value: float) -> str:
    return f"{100 * value:.3g}%" if 0 < value < 0.1 else f"{value:.0%}"


def _sentence(text: str) -> str:
    return html.escape(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))
