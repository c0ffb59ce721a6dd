"""The home's key files: made once, whole or not at all."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serve.access.key_files import read_or_make
from tests.services import ROOT

# The first byte written to a file kills the process.
KILLED_WHILE_WRITING = """
import resource, signal, sys
from pathlib import Path
from serve.access.key_files import read_or_make
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
read_or_make(Path(sys.argv[1]), "operator")
"""


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    secret = read_or_make(tmp_path / "home", "page")
    assert secret.startswith("bk-")
    assert read_or_make(tmp_path / "home", "page") == secret
    (file,) = (tmp_path / "home").iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("page.key", 0o600)


def test_all_who_make_a_key_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: read_or_make(tmp_path, "operator"), range(32)))
    assert len(secrets) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["operator.key"]


def test_a_kill_while_a_key_is_written_leaves_no_empty_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode < 0
    assert not (tmp_path / "operator.key").exists()
    assert read_or_make(tmp_path, "operator").startswith("bk-")
