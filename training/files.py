"""Files that are there whole or not at all: written aside, flushed to disk, then renamed."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file atomically and durably."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    aside.replace(path)
    fsync_folder(path.parent, files=False)


def write_json(path: Path, body: Any) -> None:
    write_text(path, json.dumps(body, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any | None:
    """The file's JSON, or None when there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def read_object(path: Path) -> dict[str, Any]:
    """The file's JSON object; an empty one where there is no such file, or none that can be read."""
    try:
        body = read_json(path)
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def fsync_folder(folder: Path, *, files: bool = True) -> None:
    """Flush a folder's entries, and the files in it, to disk."""
    for path in folder.iterdir() if files else ():
        if path.is_file():
            fsync_file(path)
    fsync_file(folder)


def fsync_file(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
