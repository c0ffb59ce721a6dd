"""Settings from environment and file, and the refusal of names and values that mean nothing."""

from pathlib import Path

import pytest

from feedback.configuration import ConfigurationRefused
from training.errors import SettingsRefused
from training.settings import Settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_are_one_machine() -> None:
    settings = Settings.read()
    assert settings.redis_url == "redis://127.0.0.1:6399/0"
    assert settings.broker_url == "redis://127.0.0.1:6399/1"
    assert settings.gateway_url == "http://127.0.0.1:8000"
    assert settings.home.is_absolute()
    assert settings.model_path == settings.home / "model"


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://db:1/0", "redis://db:1/1"),
        ("redis://db:1", "redis://db:1/1"),
        ("redis://db:1/", "redis://db:1/1"),
        ("rediss://u:p@db:1/3?ssl_cert_reqs=none", "rediss://u:p@db:1/1?ssl_cert_reqs=none"),
    ],
)
def test_the_broker_is_database_1_of_the_same_server(url: str, broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_REDIS_URL", url)
    assert Settings.read().broker_url == broker


def test_the_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "burnish.toml").write_text(
        "[gate]\nkl = 0.4\nprompts = 80\n[ui]\nwhatever = 1\n[schedule]\nmin_pairs = 9\n"
    )
    monkeypatch.setenv("BURNISH_GATE_KL", "0.9")
    settings = Settings.read()
    assert (settings.gate.kl, settings.gate.prompts, settings.schedule.min_pairs) == (0.9, 80, 9)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BURNISH_GATE_ON_INCONCLUSIVE", "wait", "gate.on_inconclusive = 'wait'"),
        ("BURNISH_GATE_PROMPTS", "10", "gate.prompts = '10'"),
        ("BURNISH_TRAINING_THREADS", "0", "training.threads = '0'"),
        ("BURNISH_TRAINING_PROCESSES", "0", "training.processes = '0'"),
        ("BURNISH_TRAINING_SHARDING", "policy", "training.sharding = 'policy'"),
        ("BURNISH_TRAINING_THREDS", "1", "training.threds = '1'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationRefused) as refused:
        Settings.read()
    assert says in str(refused.value)


def test_a_missing_key_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="the gateway makes it"):
        Settings.read().worker_key()
