"""From settings to processes: environment, addresses, what is ours to start, and when a death counts."""

import os
from pathlib import Path

import pytest

from deploy.preflight import CannotStart
from deploy.processes import PROCFILE, child_environment, ours_to_start, read_procfile, wanted_ports
from deploy.restarts import RestartRules, quick_deaths_after, restart_delay_s
from deploy.settings import LaunchSettings


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("BURNISH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_procfile_names_the_six_processes() -> None:
    assert list(read_procfile(PROCFILE)) == ["redis", "engine", "gateway", "worker", "beat", "ui"]


def test_an_empty_procfile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("nothing here\n")
    with pytest.raises(CannotStart, match="names no process"):
        read_procfile(tmp_path / "Procfile")


def test_children_are_told_absolute_folders_and_every_address(tmp_path: Path) -> None:
    told = child_environment(LaunchSettings.read(), {"PATH": "/bin"})
    assert told["BURNISH_HOME"] == str(tmp_path / ".burnish")
    assert told["BURNISH_MODEL_PATH"] == str(tmp_path / ".burnish" / "model")
    assert told["BURNISH_REDIS_URL"] == "redis://127.0.0.1:6399/0"
    assert told["BURNISH_ENGINE_URL"] == "http://127.0.0.1:8001"
    assert told["BURNISH_GATEWAY_URL"] == "http://127.0.0.1:8000"
    assert told["PATH"].endswith(":/bin")


def test_telemetry_is_off_for_every_child() -> None:
    told = child_environment(LaunchSettings.read(), {})
    assert (told["HF_HUB_OFFLINE"], told["HF_HUB_DISABLE_TELEMETRY"], told["VLLM_NO_USAGE_STATS"]) == ("1", "1", "1")
    assert (told["DO_NOT_TRACK"], told["GRADIO_ANALYTICS_ENABLED"]) == ("1", "False")


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "burnish.toml").write_text("[gateway]\nport = 9000\n[ui]\nport = 9001\n[gate]\nkl = 0.3\n")
    monkeypatch.setenv("BURNISH_UI_PORT", "9002")
    settings = LaunchSettings.read()
    assert (settings.gateway_url, settings.ui_url) == ("http://127.0.0.1:9000", "http://127.0.0.1:9002")


def test_a_gateway_open_to_all_is_reached_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_GATEWAY_HOST", "0.0.0.0")  # noqa: S104 - read, never bound
    assert LaunchSettings.read().gateway_url == "http://127.0.0.1:8000"


def test_a_given_model_is_passed_on_as_an_absolute_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_MODEL_PATH", "models/mine")
    told = child_environment(LaunchSettings.read(), {})
    assert told["BURNISH_MODEL_PATH"] == str(tmp_path / "models" / "mine")


def test_a_redis_given_by_url_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_REDIS_URL", "redis://elsewhere:6379/0")
    settings = LaunchSettings.read()
    commands = ours_to_start(settings, read_procfile(PROCFILE))
    assert "redis" not in commands
    assert "redis" not in {wish.name for wish in wanted_ports(settings, commands)}
    assert child_environment(settings, {})["BURNISH_REDIS_URL"] == "redis://elsewhere:6379/0"


def test_every_port_has_its_own_variable() -> None:
    wishes = wanted_ports(LaunchSettings(), read_procfile(PROCFILE))
    assert {wish.variable: wish.port for wish in wishes} == {
        "BURNISH_REDIS_PORT": 6399,
        "BURNISH_ENGINE_PORT": 8001,
        "BURNISH_GATEWAY_PORT": 8000,
        "BURNISH_UI_PORT": 7860,
    }


def test_restarts_come_slower_until_they_are_given_up() -> None:
    rules = RestartRules(first_delay_s=1, longest_delay_s=5, quick_deaths=5)
    assert [restart_delay_s(rules, deaths) for deaths in range(1, 6)] == [1, 2, 4, 5, None]


@pytest.mark.parametrize(
    ("ready_for_s", "count"),
    [(None, 4), (0.1, 4), (19.9, 4), (20.0, 1), (3600.0, 1)],
    ids=["never ready", "at once", "just before", "settled", "after an hour"],
)
def test_a_death_after_a_settled_life_starts_the_count_anew(ready_for_s: float | None, count: int) -> None:
    assert quick_deaths_after(RestartRules(settled_s=20), 3, ready_for_s) == count
