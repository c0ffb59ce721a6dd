"""The frozen openapi.json: `python -m tests.serve.openapi_file` writes it anew, when the API is changed on purpose."""

import json
import tempfile
from pathlib import Path
from typing import Any

from serve.app import build_app
from serve.openapi import Bounds, describe
from serve.parts import build_parts
from serve.settings import Settings

FILE = Path(__file__).with_name("openapi.json")


def described() -> dict[str, Any]:
    """The document of a gateway by default settings, before it knows its engine. Nothing is connected."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        (model / "digest.txt").write_text("0" * 64, encoding="utf-8")
        settings = Settings.model_validate({"model": {"path": model}, "home": model})
        app = build_app(build_parts(settings))
        document: dict[str, Any] = json.loads(json.dumps(describe(app.routes, Bounds(settings.gateway.max_n))))
    return document


def main() -> None:
    document = described()
    FILE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({"written": str(FILE), "paths": len(document["paths"])}))


if __name__ == "__main__":
    main()
