"""The environment's setup: it stays with the set of packages it was made for, and is never removed by the way."""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.settings import installed_extra
from tests.services import ROOT

# Stands for an environment's Python, and notes what it was asked; nothing can be installed with it.
PYTHON = """#!/bin/sh
echo "$@" >> "$0.asked"
case "$*" in *install*) exit 1 ;; esac
"""


@dataclass(frozen=True)
class Environment:
    """A stand-in for a virtual environment."""

    folder: Path

    @property
    def stamp(self) -> Path:
        return self.folder / "burnish-setup"

    @property
    def made_for(self) -> str:
        return self.stamp.read_text().splitlines()[0]

    def installs(self) -> list[str]:
        asked = self.folder / "bin" / "python.asked"
        return [line for line in asked.read_text().splitlines() if "install" in line] if asked.exists() else []

    def set_up(self, extra: str | None = None) -> subprocess.CompletedProcess[str]:
        given = {name: value for name, value in os.environ.items() if name != "BURNISH_EXTRA"}
        given |= {"VENV": str(self.folder), "PIP_NO_INDEX": "1"}
        if extra is not None:
            given["BURNISH_EXTRA"] = extra
        return subprocess.run(["sh", "deploy/setup.sh"], cwd=ROOT, env=given, capture_output=True, text=True)


@pytest.fixture
def made_for_gpu(tmp_path: Path) -> Environment:
    """An environment that is up to date, for GPUs."""
    environment = Environment(tmp_path / "venv")
    python = environment.folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    locked = (ROOT / "deploy/lock/gpu.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    environment.stamp.write_text(f"gpu\n{hashlib.sha256(locked).hexdigest()}  -\n")
    return environment


@pytest.mark.parametrize("extra", [None, "gpu"])
def test_an_environment_stays_with_the_extra_it_was_made_for(made_for_gpu: Environment, extra: str | None) -> None:
    done = made_for_gpu.set_up(extra)
    assert (done.returncode, done.stderr) == (0, "")
    assert installed_extra(made_for_gpu.folder) == "gpu"
    assert not made_for_gpu.installs()


def test_another_extra_is_refused_and_the_environment_is_left_alone(made_for_gpu: Environment) -> None:
    done = made_for_gpu.set_up("cpu")
    assert done.returncode == 1
    assert "was made for BURNISH_EXTRA=gpu, not cpu" in done.stderr
    assert "make clean" in done.stderr
    assert (made_for_gpu.folder / "bin" / "python").exists()
    assert made_for_gpu.made_for == "gpu"
    assert not made_for_gpu.installs()


def test_an_environment_that_was_not_finished_is_finished_for_the_same_extra(made_for_gpu: Environment) -> None:
    made_for_gpu.stamp.write_text("gpu\nof another lock file\n")
    for _ in range(2):
        assert made_for_gpu.set_up().returncode == 1
        assert "gpu.txt" in made_for_gpu.installs()[-1]
        assert made_for_gpu.stamp.read_text() == "gpu\n"


def test_an_unknown_extra_is_refused(made_for_gpu: Environment) -> None:
    done = made_for_gpu.set_up("tpu")
    assert done.returncode == 1
    assert "BURNISH_EXTRA=tpu is not known: use cpu or gpu" in done.stderr
