"""Small pieces that the status page's parts share: versions, moments, and the buttons that ask for a reason. Pure."""

import html
import time
from collections.abc import Mapping

from ui.markup import short_version

MOVES: Mapping[str, tuple[str, str]] = {
    "canary": ("Try out", "answers its share of sessions, beside the live one, until votes decide"),
    "promote": ("Promote", "goes live; new requests use it at once"),
    "retire": ("Retire", "is put away; it is neither tried out nor promoted again"),
    "withdraw": ("Withdraw", "is taken back and never comes back by itself"),
    "rollback": ("Roll back", "the version before goes live; the one now live is withdrawn"),
    "train": ("Train now", "a job starts on all votes that stand now"),
    "cancel": ("Cancel job", "ends; it may be started again"),
}
"""Each move's name on its button, and what it leads to."""


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


def ask_button(move: str, *, enabled: bool = True, of: str = "", danger: bool = False) -> str:
    label = MOVES[move][0]
    named = f' aria-label="{label} {short_of(of)}"' if of else ""
    return (
        f'<button class="button{" danger" if danger else ""}" type="button" data-act="ask" data-move="{move}" '
        f'data-of="{html.escape(of)}"{named}{"" if enabled else " disabled"}>{label}</button>'
    )


def short_of(of: str) -> str:
    """A version or a job, as people read it."""
    return short_job(of) if of.startswith("job-") else html.escape(short_version(of))


def short_job(job_id: str) -> str:
    return html.escape(job_id.removeprefix("job-")[:8])


def version_html(version: str | None) -> str:
    if not version:
        return "none"
    name, _, digest = version.partition("-")
    tail = f'<span class="digest">-{html.escape(digest)}</span>' if digest else ""
    return f'<code class="version">{html.escape(name)}{tail}</code>'
