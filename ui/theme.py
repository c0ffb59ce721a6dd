"""The page's design: colours, sizes and fonts as CSS variables for light and dark, and Gradio's theme made of them.

Fonts are the system's own; nothing is fetched from anywhere.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import gradio as gr

ASSETS = Path(__file__).parent / "assets"

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "Menlo", "Consolas", "monospace")

LIGHT: Mapping[str, str] = {
    "ground": "#faf8f5",
    "surface": "#ffffff",
    "sunken": "#f3efe9",
    "text": "#23201c",
    "muted": "#6a635a",
    "line": "#e5dfd6",
    "line-strong": "#9a9083",
    "accent": "#964b16",
    "accent-text": "#ffffff",
    "accent-soft": "#f7ebe0",
    "good": "#2b6e47",
    "good-soft": "#e6f2ea",
    "bad": "#a8322a",
    "bad-soft": "#fbebe9",
    "unsure": "#7d5a00",
    "unsure-soft": "#faf0d7",
    "shadow": "0 1px 2px rgb(60 45 30 / 6%), 0 6px 20px rgb(60 45 30 / 5%)",
}
DARK: Mapping[str, str] = {
    "ground": "#171513",
    "surface": "#201d1a",
    "sunken": "#282420",
    "text": "#ebe6df",
    "muted": "#a79f94",
    "line": "#35302a",
    "line-strong": "#7a7064",
    "accent": "#e3a06b",
    "accent-text": "#221405",
    "accent-soft": "#33271c",
    "good": "#86cfa3",
    "good-soft": "#1d2f25",
    "bad": "#f19a91",
    "bad-soft": "#3a2220",
    "unsure": "#e3bd62",
    "unsure-soft": "#342a14",
    "shadow": "0 1px 2px rgb(0 0 0 / 40%), 0 6px 20px rgb(0 0 0 / 30%)",
}


def head(*sheets: str) -> str:
    """What goes into the page's head: the colours and the style sheets, inline."""
    css = "\n".join((ASSETS / sheet).read_text(encoding="utf-8") for sheet in sheets)
    fonts = f"--sans: {_family(SANS)}; --mono: {_family(MONO)};"
    colours = f":root, body {{ {_variables(LIGHT)} {fonts} }}\nbody.dark {{ {_variables(DARK)} }}"
    return f"{_icon_link()}<style>{colours}\n{css}</style>"


def script(name: str) -> str:
    """A script of the page, whole."""
    return (ASSETS / name).read_text(encoding="utf-8").strip()


def gradio_theme() -> gr.themes.Base:
    """Gradio's own controls in the same colours; the variables change with dark, so both values are the same."""
    theme = gr.themes.Base(font=list(SANS), font_mono=list(MONO), radius_size=gr.themes.sizes.radius_md)
    plain = {
        "body_background_fill": "ground",
        "body_text_color": "text",
        "body_text_color_subdued": "muted",
        "background_fill_primary": "surface",
        "background_fill_secondary": "ground",
        "border_color_primary": "line",
        "border_color_accent": "accent",
        "block_background_fill": "surface",
        "block_border_color": "line",
        "block_label_text_color": "muted",
        "block_title_text_color": "text",
        "input_background_fill": "surface",
        "input_border_color": "line-strong",
        "input_border_color_focus": "accent",
        "input_placeholder_color": "muted",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent",
        "button_primary_text_color": "accent-text",
        "button_secondary_background_fill": "surface",
        "button_secondary_background_fill_hover": "sunken",
        "button_secondary_text_color": "text",
        "button_secondary_border_color": "line-strong",
        "color_accent_soft": "accent-soft",
    }
    both = {name + dark: f"var(--{colour})" for name, colour in plain.items() for dark in ("", "_dark")}
    return theme.set(**both, block_shadow="none", block_shadow_dark="none", input_shadow="none")


def _icon_link() -> str:
    """The page's icon: the dot before its name."""
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><defs><radialGradient id='g' cx='.35' cy='.3'>"
        f"<stop stop-color='#f0b98a'/><stop offset='.8' stop-color='{LIGHT['accent']}'/></radialGradient></defs>"
        "<circle cx='16' cy='16' r='14' fill='url(#g)'/></svg>"
    )
    return f'<link rel="icon" href="data:image/svg+xml,{quote(svg)}">'


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def _family(fonts: tuple[str, ...]) -> str:
    return ", ".join(f"'{font}'" if " " in font else font for font in fonts)
