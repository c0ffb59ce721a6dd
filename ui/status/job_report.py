"""What a job learned from, and what its reward model is worth, in words. Pure."""

import html
from collections.abc import Mapping
from typing import Any


def report_html(report: Mapping[str, Any]) -> str:
    """A paragraph for each thing that the job has told so far."""
    told = [
        *_examples(report.get("pairs") or {}),
        *([str(report["context"])] if report.get("context") else []),
        *_reward_model(report.get("reward_model") or {}),
    ]
    return "".join(f'<p class="faint">{html.escape(line)}</p>' for line in told)


def _examples(pairs: Mapping[str, Any]) -> list[str]:
    if "trained_on" not in pairs:
        return []
    left_out = [f"{n} {reason}" for reason, n in sorted((pairs.get("left_out") or {}).items()) if n]
    without = f" Left out: {', '.join(left_out)}." if left_out else ""
    return [f"Learns from {pairs['trained_on']}; {pairs.get('held_out', 0)} held out to judge by.{without}"]


def _reward_model(found: Mapping[str, Any]) -> list[str]:
    if "name" not in found:
        return []
    report = found.get("report")
    if not report:
        return [f"Reward model {found['name']}: no held-out votes to judge it by yet."]
    heads = (report.get("heads") or {}).items()
    return [
        f"Reward model {found['name']}: {_worth(report)}.",
        *(f"Its head {name}: {_worth(own)}." for name, own in heads),
    ]


def _worth(report: Mapping[str, Any]) -> str:
    right = f"right on {report['accuracy']:.0%} [{report['low']:.0%}, {report['high']:.0%}]"
    sure = f"off by {report['calibration_error']:.2f} in how sure it is"
    lean = f"its leaning to length {report['length_correlation']:+.2f}"
    return f"{right} of {report['pairs']} held-out votes; {sure}; {lean}"
