"""How text is written on the page. A model's Markdown becomes HTML that cannot run script and loads nothing: no raw
HTML, no images, web links only. Pure.
"""

import html
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_SAFE_LINKS = ("http://", "https://", "mailto:")


class _Renderer(RendererHTML):
    def link_open(self, tokens: Any, at: int, options: Any, env: Any) -> str:
        token: Token = tokens[at]
        token.attrSet("rel", "noopener noreferrer nofollow")
        token.attrSet("target", "_blank")
        return self.renderToken(tokens, at, options, env)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"]).disable("image")
    parser.validateLink = lambda url: url.strip().lower().startswith(_SAFE_LINKS)  # type: ignore[method-assign]
    return parser


_PARSER = _parser()


def answer_html(text: str) -> str:
    """An answer's Markdown as HTML."""
    rendered: str = _PARSER.render(text)
    return rendered


def plain_html(text: str) -> str:
    """What a person typed, as it was typed."""
    return html.escape(text).replace("\n", "<br>")


def attr(text: str) -> str:
    """Text for a double-quoted attribute."""
    return html.escape(text, quote=True).replace("\n", "&#10;")


def short_version(version: str) -> str:
    """`burnish@v0007-3f9a12c04b1e` as people read it: `v0007`."""
    return version.rpartition("@")[2].partition("-")[0]
