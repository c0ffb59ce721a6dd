"""The few line icons of the page, as inline SVG that takes the colour of the text around it."""

from typing import Literal

IconName = Literal[
    "up", "down", "copy", "pen", "again", "undo", "plus", "close", "menu", "sun", "moon", "correct", "check"
]

_THUMB = (
    '<path d="M5.6 11.2 9.2 4.4c1.5 0 2.5 1 2.3 2.5l-.5 3h5.1c1 0 1.7.9 1.5 1.9l-1 5.2c-.2.9-.9 1.5-1.8 1.5H5.6z"/>'
    '<path d="M5.6 18.5H3.4c-.5 0-.9-.4-.9-.9v-5.5c0-.5.4-.9.9-.9h2.2"/>'
)
_PATHS: dict[IconName, str] = {
    "up": _THUMB,
    "down": f'<g transform="rotate(180 10 11)">{_THUMB}</g>',
    "copy": '<rect x="7" y="7" width="9.5" height="9.5" rx="2"/>'
    '<path d="M13 7V5.5a2 2 0 0 0-2-2H5.5a2 2 0 0 0-2 2V11a2 2 0 0 0 2 2H7"/>',
    "pen": '<path d="m4 16 .7-3.3 8.6-8.6a1.6 1.6 0 0 1 2.3 0l.3.3a1.6 1.6 0 0 1 0 2.3l-8.6 8.6z"/>',
    "correct": '<path d="m3.5 16.5.6-2.9 7.4-7.4 2.3 2.3-7.4 7.4zM11.5 16.5h5M13 4.7l2.3 2.3"/>',
    "again": '<path d="M15.8 7.6A6.3 6.3 0 1 0 16.3 11"/><path d="M16.2 3.6v4.2H12"/>',
    "undo": '<path d="M4 8h8.2a3.9 3.9 0 0 1 0 7.8H7.5"/><path d="M7.2 4.6 3.8 8l3.4 3.4"/>',
    "plus": '<path d="M10 4v12M4 10h12"/>',
    "close": '<path d="m5 5 10 10M15 5 5 15"/>',
    "menu": '<path d="M3.5 5.5h13M3.5 10h13M3.5 14.5h13"/>',
    "sun": '<circle cx="10" cy="10" r="3.2"/>'
    '<path d="M10 2.5v2M10 15.5v2M2.5 10h2M15.5 10h2'
    'M4.7 4.7l1.4 1.4M13.9 13.9l1.4 1.4M15.3 4.7l-1.4 1.4M6.1 13.9l-1.4 1.4"/>',
    "moon": '<path d="M16.3 11.9A6.8 6.8 0 0 1 8.1 3.7a6.8 6.8 0 1 0 8.2 8.2z"/>',
    "check": '<path d="m4 10.5 4 4 8-9"/>',
}  # fmt: skip


def icon(name: IconName) -> str:
    """The icon, hidden from screen readers: the control around it carries the label."""
    return (
        '<svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false" fill="none" '
        f'stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round">{_PATHS[name]}</svg>'
    )
