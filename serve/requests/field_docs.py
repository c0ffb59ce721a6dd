"""docs/fields.md, made of the table in `fields`: `python -m serve.requests.field_docs` writes it anew (`make docs`)."""

import json
from collections.abc import Mapping
from pathlib import Path

from serve.requests import schema_limits as limits
from serve.requests.fields import CHAT_FIELDS, COMPLETION_FIELDS, Field, Treatment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fields.md"
_HEAD = """# Request fields

<!-- Made by `make docs` from serve/requests/fields.py: edit that. -->

Every field of OpenAI's and of vLLM's requests is treated on purpose. `null` is the same as leaving a field out. A field
that is not listed is refused with code `unknown_parameter`.

- **sent**: checked, then passed on to the engine.
- **read**: for the gateway, which may pass on what it makes of it.
- **ignored**: accepted, because OpenAI's clients send it; changes nothing.
- **refused**: status 400 with code `unsupported_parameter`, because it could harm the engine, other tenants, or the
  record of what was answered.
"""
_TAIL = f"""## Together

- `stream_options` needs `stream: true`; `prompt_logprobs` above 0 cannot be streamed.
- `top_logprobs` above 0 needs `logprobs: true` (chat).
- `tool_choice` other than `"none"` needs `tools`, and a named function must be one of them. An answer that must be a
  tool call cannot keep a `response_format`.
- `min_tokens` above the answer's limit of tokens is taken for that limit.
- A second answer (`metadata.compare_with`) has the first one's messages and sampling settings, and another seed.
- No value is nested deeper than 32 levels.

## Schemas

The engine compiles the JSON schemas in `response_format` and `tools` one at a time, and a costly one would hold up all
others. A schema has at most {limits.MAX_SCHEMA_NODES} values (keys counted), {limits.MAX_SCHEMA_CHARACTERS} characters,
{limits.MAX_PROPERTIES} properties and {limits.MAX_BRANCHES} branches of `anyOf` and `oneOf`; no length or count above
{limits.MAX_COUNT}; patterns of at most {limits.MAX_PATTERN_CHARACTERS} characters, which repeat at most
{limits.MAX_PATTERN_REPEATS} times, {limits.MAX_REPEATS} in all patterns together, without NUL; every `$ref` leads to a
schema in the same document; and `allOf` has one branch, because the engine keeps no more.

Tools need a tool parser in the engine (`BURNISH_ENGINE_TOOL_PARSER`); whether the model sees them is for its chat
template to say. SmolLM2's shows none, so SmolLM2 calls a tool only where `tool_choice` makes it.
"""


def page() -> str:
    """The whole page."""
    tables = (
        ("`POST /v1/chat/completions`", CHAT_FIELDS),
        ("`POST /v1/completions`", COMPLETION_FIELDS),
    )
    return "\n".join([_HEAD, *(f"## {title}\n\n{_table(fields)}\n" for title, fields in tables), _TAIL])


def _table(fields: Mapping[str, Field]) -> str:
    order = list(Treatment)
    rows = sorted(fields.items(), key=lambda row: (order.index(row[1].treatment), row[0]))
    lines = [f"| `{name}` | {field.treatment} | {_said(field)} |" for name, field in rows]
    return "\n".join(["| field | | what it must be, or why |", "| --- | --- | --- |", *lines])


def _said(field: Field) -> str:
    parts = [
        field.check.words if field.check else "",
        field.why,
        "operators only, 0 for others" if field.operators else "",
    ]
    return "; ".join(part for part in parts if part).replace("|", "\\|")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(json.dumps({"written": str(PAGE), "chat": len(CHAT_FIELDS), "completions": len(COMPLETION_FIELDS)}))


if __name__ == "__main__":
    main()
