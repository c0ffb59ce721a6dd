"""An operator's facts → the HTML of the status page's parts. Pure: everything from the gateway is escaped here."""

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ui.bodies import Json
from ui.icons import icon
from ui.markup import short_version
from ui.status.charts import Line, Tone, line_chart
from ui.status.console import Asked, Facts, allowed
from ui.status.gate import badge, gate_html
from ui.status.job_report import report_html

_MOVES: Mapping[str, tuple[str, str]] = {
    "promote": ("Promote", "goes live; new requests use it at once"),
    "withdraw": ("Withdraw", "is taken back and never comes back by itself"),
    "rollback": ("Roll back", "the version before goes live; the one now live is withdrawn"),
    "train": ("Train now", "a job starts on all votes that stand now"),
    "cancel": ("Cancel job", "ends; it may be started again"),
}


def overview_html(facts: Facts) -> str:
    """What is live, and what the schedule says."""
    policies, schedule = facts.policies, facts.schedule
    live = next((policy for policy in policies["policies"] if policy["version"] == policies["live"]), None)
    previous = policies.get("previous")
    since = next((move for move in reversed(live["history"]) if move["state"] == "live"), None) if live else None
    told = f"Live since {ago(since['at'])}." if since else ""
    back = f"Before it: {_version(previous)}." if previous else "There is no version to go back to."
    return (
        f'<div class="cards"><section class="card"><h2>Live</h2><p class="big">{_version(policies["live"])}</p>'
        f'<p class="faint">{told} {back}</p><div class="buttons">'
        f"{_ask_button('rollback', enabled=bool(previous), danger=True)}</div></section>"
        f'<section class="card"><h2>Next training</h2>{_schedule_html(schedule)}</section></div>'
    )


def ask_html(asked: Asked | None, schedule: Json) -> str:
    """The form that asks for a reason; every move needs one, and a training its recipe."""
    if asked is None:
        return ""
    label, meaning = _MOVES[asked.move]
    of = _short(asked.of)
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


def policies_html(facts: Facts) -> str:
    rows = "".join(_policy_html(policy) for policy in facts.policies["policies"])
    return f'<section class="card"><h2>Versions</h2><ul class="rows policies">{rows}</ul></section>'


def audit_html(facts: Facts) -> str:
    """Who moved what, when, and why."""
    rows = "".join(
        f"<tr><td>{ago(entry['at'])}</td><td>{html.escape(entry['action'])} {_version(entry['version'])}</td>"
        f'<td class="why">{html.escape(entry["reason"])}</td><td>{html.escape(entry["actor"][:24])}</td></tr>'
        for entry in facts.audit[:30]
    )
    body = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Audit trail"><table><thead><tr><th>When</th>'
        f"<th>What</th><th>Why</th><th>Who</th></tr></thead><tbody>{rows}</tbody></table></div>"
        if rows
        else '<p class="faint">Nothing has been moved yet.</p>'
    )
    return f'<section class="card"><h2>Audit trail</h2>{body}</section>'


def ago(at: float | None, now: float | None = None) -> str:
    """A moment, told coarsely, with the exact one (UTC) on hover."""
    if at is None:
        return "never"
    seconds = max(0.0, (time.time() if now is None else now) - at)
    exact = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    return f'<time datetime="{exact}" title="{exact}">{_coarse(seconds)}</time>'


def _coarse(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name} ago"
    raise AssertionError(seconds)


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
        f'<div class="buttons">{_ask_button("train", enabled=can)}</div>'
    )


def _ready(schedule: Json) -> list[str]:
    """The recipes for which there are votes enough of what they learn from."""
    return [name for name in schedule["recipes"] if schedule["votes"][name]["total"] >= schedule["least"]]


def _ask_button(move: str, *, enabled: bool = True, of: str = "", danger: bool = False) -> str:
    label = _MOVES[move][0]
    named = f' aria-label="{label} {_short(of)}"' if of else ""
    return (
        f'<button class="button{" danger" if danger else ""}" type="button" data-act="ask" data-move="{move}" '
        f'data-of="{html.escape(of)}"{named}{"" if enabled else " disabled"}>{label}</button>'
    )


def _job_html(job: Json) -> str:
    share = min(max(float(job["progress"]), 0.0), 1.0)
    running = job["state"] == "running"
    ended = f", ended {ago(job['finished_at'])}" if job.get("finished_at") else ""
    made = f" It made {_version(job['version'])}." if job.get("version") else ""
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
    cancel = _ask_button("cancel", of=job["id"], danger=True) if is_open and not ending else ""
    return (
        f'<p class="job-head">{mark}{badge(job["state"])} <b>{html.escape(job["stage"])}</b>'
        f'<span class="faint">{share:.0%}</span></p>{bar}'
        f'<p class="faint">Job {short_job(job["id"])}, recipe {html.escape(job["recipe"])}, '
        f"{job['n_events']} votes{attempt}; asked for by {html.escape(job['actor'])} "
        f"({html.escape(job['reason'])}), made {ago(job['created_at'])}{ended}.{made}</p>{error}{ending}"
        f"{report_html(job.get('report') or {})}" + (f'<div class="buttons">{cancel}</div>' if cancel else "")
    )


def _short(of: str) -> str:
    """A version or a job, as people read it."""
    return short_job(of) if of.startswith("job-") else html.escape(short_version(of))


def short_job(job_id: str) -> str:
    return html.escape(job_id.removeprefix("job-")[:8])


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


def _policy_html(policy: Json) -> str:
    buttons = "".join(_ask_button(move, of=policy["version"], danger=move == "withdraw") for move in allowed(policy))
    parent = f"from {_version(policy['parent'])}, " if policy.get("parent") else ""
    load = policy.get("load") or {}
    unloaded = f'<p class="wrong">Not loaded: {html.escape(str(load["error"]))}</p>' if load.get("error") else ""
    why = _last_move_html(policy)
    gate = gate_html(policy["gate"], policy["version"]) if policy.get("gate") else ""
    made = f'<span class="faint">{parent}made {ago(policy["created_at"])}</span>'
    return (
        f'<li><div class="policy-head">{_version(policy["version"])} {badge(policy["state"])}{made}'
        f'<span class="buttons">{buttons}</span></div>{why}{unloaded}{gate}</li>'
    )


def _last_move_html(policy: Json) -> str:
    """When and why it came to be live, retired or withdrawn; the gate tells the rest."""
    if policy["state"] not in ("live", "retired", "withdrawn") or not policy.get("history"):
        return ""
    last = policy["history"][-1]
    moved = f"{html.escape(last['state'].capitalize())} {ago(last['at'])}"
    return f'<p class="faint">{moved}: {html.escape(last["reason"])}</p>'


def _version(version: str | None) -> str:
    if not version:
        return "none"
    name, _, digest = version.partition("-")
    tail = f'<span class="digest">-{html.escape(digest)}</span>' if digest else ""
    return f'<code class="version">{html.escape(name)}{tail}</code>'
