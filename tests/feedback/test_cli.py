"""`burnish votes` finds the ledger where the processes find it: by address, by port, by file, by line."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from feedback.cli import votes
from feedback.connection import connect
from feedback.ids import LineName, UserId
from feedback.ledger import Ledger, Speaker
from tests.feedback.makers import TENANT, comparison, make_turn
from tests.services import free_port

Set = Callable[[pytest.MonkeyPatch, str], None]


def by_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BURNISH_REDIS_URL", url)


def by_port(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BURNISH_REDIS_PORT", str(urlsplit(url).port))


def by_file(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    Path("burnish.toml").write_text(f"[redis]\nport = {urlsplit(url).port}\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REDIS_URL", "REDIS_PORT", "LINE_NAME", "CONFIG"):
        monkeypatch.delenv(f"BURNISH_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def vote_in(url: str, line: str) -> None:
    ledger = Ledger(connect(url), LineName(line))
    first, second = make_turn(user="ann"), make_turn(user="ann", answer="Another.")
    ledger.append_turns([first, second])
    ledger.append_event(comparison(first.id, second.id), Speaker(TENANT, UserId("ann")))


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(votes, arguments)
    return done.exit_code, done.output


@pytest.mark.parametrize("given", [by_url, by_port, by_file])
def test_the_votes_are_those_of_the_configured_redis(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, given: Set
) -> None:
    vote_in(redis_url, "burnish")
    given(monkeypatch, redis_url)
    assert run("count") == (0, "1 standing, 1 make a pair, 1 ever said by people\n")
    assert run("rebuild") == (0, "1 events read\n")
    code, listed = run("list")
    assert (code, listed.count('"verdict":"first"')) == (0, 1)


def test_the_votes_are_those_of_the_configured_line(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vote_in(redis_url, "polish")
    by_port(monkeypatch, redis_url)
    assert run("rebuild") == (0, "0 events read\n")
    monkeypatch.setenv("BURNISH_LINE_NAME", "polish")
    assert run("rebuild") == (0, "1 events read\n")
    assert run("rebuild", "--line", "burnish") == (0, "0 events read\n")


def test_an_option_wins_over_the_settings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vote_in(redis_url, "burnish")
    by_port(monkeypatch, f"redis://127.0.0.1:{free_port()}/0")
    assert run("rebuild", "--redis", redis_url) == (0, "1 events read\n")


def test_a_redis_that_is_away_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    by_port(monkeypatch, f"redis://127.0.0.1:{free_port()}/0")
    code, said = run("count")
    assert code == 1
    assert said.startswith("burnish: Redis did not answer")
