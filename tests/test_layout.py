"""Who may import whom: the folders' borders, read from the sources, and what must load without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services import ROOT

OURS = ("deploy", "feedback", "serve", "training", "ui")

# vLLM's plugins run inside vLLM's process and are imported by nobody of ours.
PLUGINS = ("serve/cpu_lora.py", "serve/cpu_seeds.py")

# Folder → what it may import of ours, beside itself. A name with a dot allows that module alone.
MAY_IMPORT: dict[str, set[str]] = {
    "feedback": set(),
    "serve": {"feedback"},
    "training": {"feedback"},
    "ui": {"feedback.configuration", "feedback.events"},
    "deploy": {"feedback.cli", "feedback.configuration", "serve.cli", "training.cli"},
}

# Third party → the folders (or single files) that may import it.
THIRD_PARTIES: dict[str, set[str]] = {
    "redis": {"feedback"},
    "torch": {"training"},
    "transformers": {"training"},
    "peft": {"training"},
    "accelerate": {"training"},
    "celery": {"training"},
    "gradio": {"ui"},
    "fastapi": {"serve", "ui", "training/rewards/scorer.py"},
    "vllm": set(),
}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, those inside functions too; relative ones made absolute, `from a import b` as a.b."""
    file = path.relative_to(ROOT)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(str(file), node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(file.parent.parts[: len(file.parent.parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (package, node.module) if part)
            for alias in node.names:
                yield Import(str(file), node.lineno, f"{module}.{alias.name}")


def is_within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(f"{allowed}.")


def oversteps(found: Import, folder: str) -> bool:
    top = found.module.partition(".")[0]
    if top in OURS and top != folder:
        return not any(is_within(found.module, allowed) for allowed in MAY_IMPORT[folder])
    if top == "tests":
        return True
    return top in THIRD_PARTIES and not {folder, found.file} & THIRD_PARTIES[top] and found.file not in PLUGINS


@pytest.mark.parametrize("folder", OURS)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    wrong = [str(found) for path in sources(folder) for found in imports(path) if oversteps(found, folder)]
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_the_engine_plugins() -> None:
    wrong = [
        str(found)
        for folder in OURS
        for path in sources(folder)
        for found in imports(path)
        if any(is_within(found.module, plugin.removesuffix(".py").replace("/", ".")) for plugin in PLUGINS)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", OURS)
def test_every_module_says_what_it_owns(folder: str) -> None:
    silent = [
        str(path.relative_to(ROOT)) for path in sources(folder) if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, silent


@pytest.mark.parametrize("folder", ["feedback", "serve", "ui"])
def test_a_folder_loads_with_torch_absent(folder: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources(folder)
        if str(path.relative_to(ROOT)) not in PLUGINS and path.name != "__main__.py"
    ]
    source = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'peft', 'vllm', 'celery']))\n"
        f"[importlib.import_module(name) for name in {modules!r}]\n"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_rule_that_is_broken_would_be_seen() -> None:
    assert oversteps(Import("serve/x.py", 1, "training.judging.gate"), "serve")
    assert oversteps(Import("serve/x.py", 1, "redis.Redis"), "serve")
    assert oversteps(Import("ui/x.py", 1, "feedback.ledger.Ledger"), "ui")
    assert oversteps(Import("serve/launch.py", 1, "torch"), "serve")
    assert oversteps(Import("training/x.py", 1, "fastapi.FastAPI"), "training")
    assert not oversteps(Import("training/rewards/scorer.py", 1, "fastapi.FastAPI"), "training")
    assert not oversteps(Import("ui/x.py", 1, "feedback.events.Rating"), "ui")
    assert not oversteps(Import(PLUGINS[0], 1, "torch"), "serve")
