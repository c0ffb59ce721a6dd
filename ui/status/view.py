"""What is live, the schedule, the jobs, and what is asked and told, as HTML. Pure: what the gateway says is escaped.

The versions, the audit trail and the canary have files of their own.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ui.bodies import Json
from ui.icons import icon
from ui.markup import short_version
from ui.status.charts import Line, Tone, line_chart
from ui.status.console import Asked, Facts
from ui.status.gate import badge
from ui.status.job_report import report_html
from ui.status.marks import MOVES, ago, ask_button, short_job, short_of, version_html


def overview_html(facts: Facts) -> str:
    """What is live, and what the schedule says."""
    policies, schedule = facts.policies, facts.schedule
    live = next((policy for policy in policies["policies"] if policy["version"] == policies["live"]), None)
    previous = policies.get("previous")
    since = next((move for move in reversed(live["history"]) if move["state"] == "live"), None) if live else None
    told = f"Went live {ago(since['at'])}." if since else ""
    back = f"Before it: {version_html(previous)}." if previous else "There is no version to go back to."
    return (
        f'<div class="cards"><section class="card"><h2>Live</h2><p class="big">{version_html(policies["live"])}</p>'
        f'<p class="faint">{told} {back}</p><div class="buttons">'
        f"{ask_button('rollback', enabled=bool(previous), danger=True)}</div></section>"
        f'<section class="card"><h2>Next training</h2>{_schedule_html(schedule)}</section></div>'
    )


def ask_html(asked: Asked | None, schedule: Json) -> str:
    """The form that asks for a reason; every move needs one, and a training its recipe."""
    if asked is None:
        return ""
    label, meaning = MOVES[asked.move]
    of = short_of(asked.of)
    kept = "with the job" if asked.move in ("train", "cancel") else "in the audit trail"
    subject = f"{label} {of}" if of else label
    return (
        f'<form class="card ask" data-act="do"><h2>{subject}</h2><p class="faint">'
        f"{f'{of} {meaning}' if of else meaning.capitalize()}.</p>"
        f"{_recipes_html(schedule) if asked.move == 'train' else ''}"
        f'<label for="reason">Reason (kept {kept})</label><input id="reason" name="text" type="text" '
        f'required maxlength="1000" autocomplete="off" data-focus="{asked.move}-{html.escape(asked.of)}">'
        f'<div class="buttons"><button class="button strong" type="submit">{label}</button>'
        '<button class="button" type="button" data-act="cancel">Cancel</button></div></form>'
    )


def _recipes_html(schedule: Json) -> str:
    ready = _ready(schedule)
    default = schedule.get("default_recipe")
    chosen = default if default in ready else next(iter(ready), None)
    options = "".join(
        f'<option value="{html.escape(name)}"{" selected" if name == chosen else ""}'
        f"{'' if name in ready else ' disabled'}>{html.escape(name)}</option>"
        for name in schedule["recipes"]
    )
    return f'<label for="recipe">Recipe</label><select id="recipe" name="recipe">{options}</select>'


def told_html(text: str, *, bad: bool) -> str:
    if not text:
        return '<div role="status"></div>'
    role, tone = ("alert", "bad") if bad else ("status", "good")
    close = f'<button class="tool" type="button" data-act="hush" aria-label="Close">{icon("close")}</button>'
    return f'<div role="{role}"><div class="notice {tone}"><p>{html.escape(text)}</p>{close}</div></div>'


def training_html(facts: Facts) -> str:
    """The job shown, with its progress and curves, and the list to choose from."""
    if facts.job is None:
        return '<section class="card"><h2>Training</h2><p class="faint">No job has run yet.</p></section>'
    rows = "".join(_job_row(job, job["id"] == facts.job["id"]) for job in facts.jobs[:8])
    return (
        f'<section class="card"><h2>Training</h2>{_job_html(facts.job)}{curves_html(facts.job.get("curve") or [])}'
        f'<h3>Jobs</h3><ul class="rows">{rows}</ul></section>'
    )


def _schedule_html(schedule: Json) -> str:
    new, needed, counted = schedule["new"], max(schedule["needed"], 1), html.escape(schedule["learns_from"])
    done = min(new, needed)
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in schedule["reasons"])
    said = schedule["refused"].get(schedule["default_recipe"])  # which is among the reasons
    refused = "".join(
        f'<p class="wrong">Left out: {html.escape(why)}</p>' for why in sorted({*schedule["refused"].values()} - {said})
    )
    ready = _ready(schedule)
    can = bool(ready) and schedule["running"] is None
    needs = f"Train now needs {schedule['least']} {counted}; there are {schedule['total']}."
    missing = "" if ready or schedule["total"] >= schedule["least"] else f'<p class="faint">{needs}</p>'
    return (
        f'<p class="big">{new} <span class="faint">of {needed} new {counted}</span></p>'
        f'<div class="meter" role="progressbar" aria-label="New {counted}" aria-valuemin="0" aria-valuemax="{needed}" '
        f'aria-valuenow="{done}"><span style="width:{100 * done / needed:.0f}%"></span></div>'
        f'<ul class="reasons">{reasons}</ul>{refused}{missing}'
        f'<div class="buttons">{ask_button("train", enabled=can)}</div>'
    )


def _ready(schedule: Json) -> list[str]:
    """The recipes for which there are votes enough of what they learn from."""
    return [name for name in schedule["recipes"] if schedule["votes"][name]["total"] >= schedule["least"]]


def _job_html(job: Json) -> str:
    share = min(max(float(job["progress"]), 0.0), 1.0)
    running = job["state"] == "running"
    ended = f", ended {ago(job['finished_at'])}" if job.get("finished_at") else ""
    made = f" It made {version_html(job['version'])}." if job.get("version") else ""
    attempt = f", attempt {job['attempt']}" if job["attempt"] > 1 else ""
    error = f'<p class="wrong">{html.escape(job["error"])}</p>' if job.get("error") else ""
    bar = (
        f'<div class="meter" role="progressbar" aria-label="Progress of the job" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}"><span style="width:{share * 100:.1f}%"></span></div>'
    )
    mark = '<span class="pulse"></span> ' if running else ""
    is_open = job["state"] in ("queued", "running")
    wanted = job.get("cancelled") if is_open else None
    ending = f'<p class="faint">{html.escape(wanted[:1].upper() + wanted[1:])}</p>' if wanted else ""
    cancel = ask_button("cancel", of=job["id"], danger=True) if is_open and not ending else ""
    return (
        f'<p class="job-head">{mark}{badge(job["state"])} <b>{html.escape(job["stage"])}</b>'
        f'<span class="faint">{share:.0%}</span></p>{bar}'
        f'<p class="faint">Job {short_job(job["id"])}, recipe {html.escape(job["recipe"])}, '
        f"{job['n_events']} votes{attempt}; asked for by {html.escape(job['actor'].removeprefix('key '))} "
        f"({html.escape(job['reason'])}), made {ago(job['created_at'])}{ended}.{made}</p>{error}{ending}"
        f"{report_html(job.get('report') or {})}" + (f'<div class="buttons">{cancel}</div>' if cancel else "")
    )


def _job_row(job: Json, is_shown: bool) -> str:
    version = f" → {html.escape(short_version(job['version']))}" if job.get("version") else ""
    return (
        f'<li><button class="row" type="button" data-act="show_job" data-job="{html.escape(job["id"])}" '
        f'aria-pressed="{str(is_shown).lower()}"><code>{short_job(job["id"])}</code> {badge(job["state"])}'
        f"<span>{html.escape(job['recipe'])}{version}</span>"
        f'<span class="faint">{ago(job["created_at"])}</span></button></li>'
    )


CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Loss", (("loss", ""),)),
    ("Margin", (("margin", "policy"), ("reward_margin", "reward model"))),
    ("Log-probs (nats)", (("chosen_logprob", "chosen"), ("rejected_logprob", "rejected"))),
    ("Accuracy on training examples", (("accuracy", ""),)),
    ("Reward", (("reward_mean", "mean"), ("reward_spread", "spread"))),
    ("KL to the reference (nats a token)", (("kl", "own answers"), ("reference_kl", "voted answers"))),
    ("Entropy (nats a token)", (("entropy", ""),)),
    ("Answer length (tokens)", (("answer_tokens", ""),)),
    ("Gradient norm", (("grad_norm", ""),)),
    ("Clipped share", (("clip_fraction", ""),)),
    ("Value error", (("value_error", ""),)),
)
"""The charts a job may have: title, then each line's key in a curve point and its name. The empty are left out."""


def curves_html(curve: Sequence[Mapping[str, Any]]) -> str:
    """The charts of what a job trains; under headings where a part is trained on the way to its policy."""
    parts: dict[str | None, list[Mapping[str, Any]]] = {}
    for point in curve:
        parts.setdefault(point.get("part"), []).append(point)
    if set(parts) <= {None}:
        return _charts_html(curve)
    named = {(part or "policy").capitalize(): points for part, points in parts.items()}
    return "".join(f"<h3>{html.escape(name)}</h3>{_charts_html(points)}" for name, points in named.items())


def _charts_html(curve: Sequence[Mapping[str, Any]]) -> str:
    """A chart for each of CHARTS that the points have something of."""

    def line(key: str, name: str, tone: Tone) -> Line:
        return Line(name, [(float(p["step"]), float(p[key])) for p in curve if p.get(key) is not None], tone)

    tones: tuple[Tone, Tone] = ("one", "two")
    charts = [(title, [line(*keys, tone) for keys, tone in zip(lines, tones, strict=False)]) for title, lines in CHARTS]
    drawn = "".join(line_chart(title, lines) for title, lines in charts if any(each.points for each in lines))
    return f'<div class="charts">{drawn}</div>' if drawn else ""
