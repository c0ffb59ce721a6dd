"""The versions with their gate reports, and the audit trail of what moved them. Pure."""

import html
from collections.abc import Mapping, Sequence

from ui.bodies import Json
from ui.status.canary import numbers_html
from ui.status.console import Facts, allowed
from ui.status.gate import badge, gate_html
from ui.status.marks import ago, ask_button, version_html


def policies_html(facts: Facts) -> str:
    policies = facts.policies["policies"]
    answering = [name for name, load in _replicas_of_base(policies).items() if load["state"] == "loaded"]
    may_try = not any(policy["state"] == "canary" for policy in policies)
    rows = "".join(_policy_html(policy, answering, may_try=may_try) for policy in policies)
    return f'<section class="card"><h2>Versions</h2><ul class="rows policies">{rows}</ul></section>'


def audit_html(facts: Facts) -> str:
    """Who moved what, when, and why."""
    rows = "".join(_entry_html(entry) for entry in facts.audit[:30])
    body = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Audit trail"><table><thead><tr><th>When</th>'
        f"<th>What</th><th>Why</th><th>Who</th></tr></thead><tbody>{rows}</tbody></table></div>"
        if rows
        else '<p class="faint">Nothing has been moved yet.</p>'
    )
    return f'<section class="card"><h2>Audit trail</h2>{body}</section>'


def _entry_html(entry: Json) -> str:
    numbers = numbers_html(entry.get("numbers") or {})
    key = html.escape(f"numbers-{entry['version']}-{entry['at']}")
    folded = (
        f'<tr class="numbers"><td colspan="4"><details data-keep="{key}"><summary>Its numbers</summary>{numbers}'
        "</details></td></tr>"
    )
    who = html.escape(entry["actor"].removeprefix("key ")[:24])
    return (
        f"<tr><td>{ago(entry['at'])}</td><td>{html.escape(entry['action'])} {version_html(entry['version'])}</td>"
        f'<td class="why">{html.escape(entry["reason"])}</td><td>{who}</td></tr>'
        f"{folded if numbers else ''}"
    )


def _policy_html(policy: Json, answering: Sequence[str], *, may_try: bool) -> str:
    """`may_try`: there is no canary yet, and only one at a time can be."""
    buttons = "".join(
        ask_button(move, of=policy["version"], danger=move == "withdraw", enabled=move != "canary" or may_try)
        for move in allowed(policy)
    )
    parent = f"from {version_html(policy['parent'])}, " if policy.get("parent") else ""
    unloaded = "".join(f'<p class="wrong">{html.escape(line)}</p>' for line in not_loaded(policy, answering))
    why = _last_move_html(policy)
    gate = gate_html(policy["gate"], policy["version"]) if policy.get("gate") else ""
    made = f'<span class="faint">{parent}made {ago(policy["created_at"])}</span>'
    return (
        f'<li><div class="policy-head">{version_html(policy["version"])} {badge(policy["state"])}{made}'
        f'<span class="buttons">{buttons}</span></div>{why}{unloaded}{gate}</li>'
    )


def not_loaded(policy: Json, answering: Sequence[str]) -> list[str]:
    """Where a version that serves, or may come to serve, is not loaded, of the replicas that answer.

    One that stands on none of them, and was asked of none, is simply not kept loaded.
    """
    replicas = {name: load for name, load in (policy.get("replicas") or {}).items() if name in answering}
    if policy["state"] not in ("candidate", "canary", "live") or not replicas:
        error = (policy.get("load") or {}).get("error")
        return [f"Not loaded: {error}"] if error else []
    lines = []
    for name in answering:
        load = replicas.get(name) or {"state": "absent"}
        on = f" on {name}" if len(answering) > 1 else ""
        if load["state"] == "loading":
            lines.append(f"Being loaded{on}.")
        elif load["state"] != "loaded":
            lines.append(f"Not loaded{on}: {load['error']}" if load.get("error") else f"Not loaded{on}.")
    return lines


def _replicas_of_base(policies: Sequence[Json]) -> Mapping[str, Json]:
    """How the base stands on every replica: it is loaded wherever one answers."""
    base = next((policy for policy in policies if not policy.get("adapter")), {})
    replicas: Mapping[str, Json] = base.get("replicas") or {}
    return replicas


def _last_move_html(policy: Json) -> str:
    """When and why it came to be tried out, live, retired or withdrawn; the gate tells the rest."""
    if policy["state"] not in ("canary", "live", "retired", "withdrawn") or not policy.get("history"):
        return ""
    last = policy["history"][-1]
    moved = f"{html.escape(last['state'].capitalize())} {ago(last['at'])}"
    return f'<p class="faint">{moved}: {html.escape(last["reason"])}</p>'
