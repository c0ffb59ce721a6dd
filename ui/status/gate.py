"""A gate report as a table to judge by: each check's value, interval, bound and verdict, and in words. Pure."""

import html
from collections.abc import Mapping
from typing import Any

from ui.status.charts import number

_TONES: Mapping[str, str] = {
    "pass": "good", "done": "good", "live": "good", "candidate": "good",
    "fail": "bad", "failed": "bad", "rejected": "bad", "withdrawn": "bad",
    "inconclusive": "unsure", "canary": "unsure", "running": "accent",
}  # fmt: skip
_VERDICTS: Mapping[str, str] = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}


def badge(word: str) -> str:
    """A state or a verdict, as a small coloured word."""
    return f'<span class="badge {_TONES.get(word, "plain")}">{html.escape(_VERDICTS.get(word, word))}</span>'


def gate_html(gate: Mapping[str, Any], version: str) -> str:
    """The whole report, folded; the summary shows without unfolding."""
    verdict, summary = str(gate.get("verdict", "")), str(gate.get("summary", ""))
    prompts = gate.get("n_prompts")
    on = f'<p class="faint">Judged on {prompts} prompts and the held-out votes.</p>' if prompts else ""
    rows = "".join(_check_html(check) for check in gate.get("checks") or ())
    return (
        f'<details class="gate" data-keep="gate-{html.escape(version)}"><summary>Gate {badge(verdict)} '
        f'<span class="faint">{html.escape(summary)}</span></summary>{on}'
        '<div class="scroll" tabindex="0" role="region" aria-label="Gate report"><table><thead><tr><th>Check</th>'
        "<th>Value</th><th>Interval</th><th>Bound</th><th>Verdict</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _check_html(check: Mapping[str, Any]) -> str:
    interval = f"{_number(check.get('low'))} to {_number(check.get('high'))}"
    bound = _bound(check.get("least"), check.get("most"))
    words = f'<span class="words">{html.escape(str(check.get("words", "")))}</span>'
    return (
        f"<tr><td><b>{html.escape(str(check.get('name', '')).replace('_', ' '))}</b>"
        f'<span class="words">{html.escape(str(check.get("title", "")))}</span></td>'
        f"<td>{_number(check.get('value'))}</td><td>{interval}</td><td>{bound}</td>"
        f"<td>{badge(str(check.get('verdict', '')))}{words}</td></tr>"
    )


def _bound(least: Any, most: Any) -> str:
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    if least is not None:
        return f"above {_number(least)}"
    return f"at most {_number(most)}" if most is not None else "none"


def _number(value: Any) -> str:
    return number(float(value)) if isinstance(value, int | float) else "–"
