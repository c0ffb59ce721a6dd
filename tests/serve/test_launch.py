"""How vLLM is started: its arguments, its environment, and the wait for the model."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from feedback.configuration import ConfigurationRefused
from serve.engine_settings import EngineSettings
from serve.launch import arguments, environment, wait_for_model
from serve.settings import Settings
from tests.services import ROOT

MODEL = Path("/models/base")


def value_of(option: str, given: list[str]) -> str:
    return given[given.index(option) + 1]


def test_the_base_answers_to_its_version_name_on_loopback() -> None:
    given = arguments(EngineSettings(port=9001), MODEL, on_cpu=True)
    assert value_of("--model", given) == "/models/base"
    assert value_of("--served-model-name", given) == "v0000-base"
    assert (value_of("--host", given), value_of("--port", given)) == ("127.0.0.1", "9001")


def test_adapters_can_be_loaded_at_run_time() -> None:
    given = arguments(EngineSettings(max_loras=5, max_lora_rank=16), MODEL, on_cpu=True)
    assert "--enable-lora" in given
    assert (value_of("--max-loras", given), value_of("--max-lora-rank", given)) == ("5", "16")
    assert value_of("--api-server-count", given) == "1"
    assert environment(EngineSettings(), {}, on_cpu=True)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_memory_holds_at_least_the_adapters_of_one_batch() -> None:
    given = arguments(EngineSettings(max_loras=20, max_cpu_loras=8), MODEL, on_cpu=True)
    assert value_of("--max-cpu-loras", given) == "20"


@pytest.mark.parametrize(
    ("on_cpu", "settings", "model_len", "step_tokens"),
    [
        (True, EngineSettings(), "2048", "512"),
        (True, EngineSettings(max_model_len=4096, max_step_tokens=1024), "4096", "1024"),
        (False, EngineSettings(), None, None),
        (False, EngineSettings(max_model_len=4096), "4096", None),
    ],
)
def test_lengths_are_ours_on_the_cpu_and_the_models_own_elsewhere(
    on_cpu: bool, settings: EngineSettings, model_len: str | None, step_tokens: str | None
) -> None:
    given = arguments(settings, MODEL, on_cpu=on_cpu)
    for option, wanted in (("--max-model-len", model_len), ("--max-num-batched-tokens", step_tokens)):
        assert (value_of(option, given) if option in given else None) == wanted


@pytest.mark.parametrize("on_cpu", [True, False])
def test_requests_are_taken_by_priority(on_cpu: bool) -> None:
    assert value_of("--scheduling-policy", arguments(EngineSettings(), MODEL, on_cpu=on_cpu)) == "priority"


def test_target_modules_are_given_one_by_one_or_not_at_all() -> None:
    given = arguments(EngineSettings(target_modules="q_proj, lm_head"), MODEL, on_cpu=True)
    first = given.index("--lora-target-modules") + 1
    assert given[first : first + 2] == ["q_proj", "lm_head"]
    assert "--lora-target-modules" not in arguments(EngineSettings(target_modules=""), MODEL, on_cpu=True)


@pytest.mark.parametrize(
    ("on_cpu", "line", "dtype"),
    [
        (True, "flags\t\t: fpu sse2 avx avx2 fma", "float32"),
        (True, "flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_bf16", None),
        (True, "Features\t: fp asimd sve bf16", None),
        (True, "", None),
        (False, "flags\t\t: fpu sse2 avx avx2 fma", None),
    ],
)
def test_a_cpu_that_is_slow_in_bf16_serves_in_fp32(on_cpu: bool, line: str, dtype: str | None) -> None:
    given = arguments(EngineSettings(), MODEL, on_cpu=on_cpu, cpuinfo=f"processor\t: 0\n{line}\n\nprocessor\t: 1\n")
    assert (value_of("--dtype", given) if "--dtype" in given else None) == dtype


def test_further_arguments_come_last_so_that_they_win() -> None:
    given = arguments(EngineSettings(extra_args="--dtype 'float 16' --seed 3"), MODEL, on_cpu=False)
    assert given[-4:] == ["--dtype", "float 16", "--seed", "3"]


def test_a_gpu_gets_nothing_that_is_for_the_cpu() -> None:
    given = environment(EngineSettings(), {}, on_cpu=False)
    assert not [name for name in given if "CPU" in name or "DYNAMO" in name]
    assert given["VLLM_PLUGINS"] == "burnish_cpu_lora,burnish_cpu_seeds"


def test_the_users_environment_wins_over_choices_and_not_over_telemetry() -> None:
    users = {"VLLM_CPU_KVCACHE_SPACE": "8", "VLLM_NO_USAGE_STATS": "0", "HF_HUB_OFFLINE": "0", "PATH": "/bin"}
    given = environment(EngineSettings(kv_cache_gib=2), users, on_cpu=True)
    assert given["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert given["PATH"] == "/bin"
    assert (given["VLLM_NO_USAGE_STATS"], given["DO_NOT_TRACK"], given["HF_HUB_OFFLINE"]) == ("1", "1", "1")


def test_thread_counts_for_others_do_not_reach_an_engine_that_is_bound_to_its_cores() -> None:
    users = {"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    assert not set(environment(EngineSettings(), users, on_cpu=True)) & set(users)
    assert set(environment(EngineSettings(), users, on_cpu=False)) >= set(users)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("BURNISH_HOME", str(tmp_path))
    monkeypatch.setenv("BURNISH_ENGINE_PORT", "9111")
    monkeypatch.setenv("BURNISH_ENGINE_MAX_LORA_RANK", "16")
    settings = Settings.read()
    assert (settings.engine.port, settings.engine.max_lora_rank) == (9111, 16)
    assert settings.model_path == tmp_path / "model"


def test_a_misspelt_engine_setting_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("BURNISH_ENGINE_MAX_LORA", "16")
    with pytest.raises(ConfigurationRefused, match=r"engine\.max_lora = .16. \(BURNISH_ENGINE_MAX_LORA\)"):
        Settings.read()


def test_the_wait_ends_when_the_model_is_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text("{}")
    timer = threading.Timer(0.2, lambda: (tmp_path / "digest.txt").write_text("ab"))
    timer.start()
    with caplog.at_level(logging.INFO, "serve.launch"):
        wait_for_model(tmp_path)
    timer.join()
    assert [str(tmp_path) in message for message in caplog.messages] == [True, True]


def test_a_launch_without_a_model_says_what_it_waits_for(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "serve.launch"],
        cwd=ROOT,
        env={**os.environ, "BURNISH_HOME": str(tmp_path), "BURNISH_MODEL_PATH": str(tmp_path / "model")},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
        process.stderr.read()
    assert "waiting for the model" in line
    assert str(tmp_path / "model") in line


def test_tools_are_answered_by_the_parser_that_the_model_has() -> None:
    given = arguments(EngineSettings(tool_parser="qwen3_xml"), MODEL, on_cpu=False)
    assert value_of("--tool-call-parser", given) == "qwen3_xml"
    assert "--enable-auto-tool-choice" in given
    assert value_of("--tool-strict-level", given) == "parameter"
    none = arguments(EngineSettings(tool_parser=""), MODEL, on_cpu=False)
    assert not {"--tool-call-parser", "--enable-auto-tool-choice", "--tool-strict-level"} & set(none)
