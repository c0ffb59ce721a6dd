"""The `burnish` command: quick help, subcommands imported only when they are called."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from deploy import cli
from tests.services import ROOT


def test_help_lists_every_group_and_imports_none() -> None:
    source = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from deploy.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "print(result.output)\n"
        "print('imported:', sorted({'feedback.cli', 'serve', 'training', 'ui', 'redis', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in ("up", *cli.MOUNTED):
        assert f" {name} " in done.stdout
    assert "imported: []" in done.stdout


def test_a_group_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.MOUNTED, "jobs", cli.Mounted("no_such_module", "jobs", "Never there."))
    result = CliRunner().invoke(cli.app, ["jobs", "list"])
    assert result.exit_code == 1
    assert "burnish jobs is not available: No module named 'no_such_module'" in result.output


@pytest.mark.parametrize("name", list(cli.MOUNTED))
def test_every_mounted_group_is_there(name: str) -> None:
    result = CliRunner().invoke(cli.app, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_an_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(cli.app, ["shine"])
    assert result.exit_code == 2
