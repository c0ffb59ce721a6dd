"""An adapter straight from peft's save_pretrained, on a real engine: imported, promoted, and known again later."""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serve import cli
from serve.adapters.manifest import MANIFEST, Manifest
from tests.serve.adapters.test_imports import ROUTE, left_in, take_in
from tests.serve.reference import logprobs
from tests.serve.replicas.test_swap import live_now, load_of, promote, wait_loaded
from tests.serve.test_bad_input import error_of
from tests.serve.test_cli import ran
from tests.services import Gateway, free_port, start_engine, start_gateway, wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """`trained` and `fresh`, as peft writes them: the second was never trained and changes nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("saved")
    for name, begins in (("trained", False), ("fresh", True)):
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
        config = LoraConfig(
            r=8, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=begins
        )
        get_peft_model(base, config).save_pretrained(folder / name)
    assert {entry.name for entry in (folder / "trained").iterdir()} >= {"README.md", "adapter_config.json"}
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_an_adapter_of_pefts_is_imported_served_and_verified_again_after_the_engine_was_restarted(
    home: Path, redis_url: str, model_dir: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with (
        start_engine(home, model_dir, port=port) as engine,
        start_gateway(home, redis_url, engine.url, model=model_dir) as gateway,
        client_of(gateway) as api,
    ):
        refused = imported(gateway, saved / "fresh", monkeypatch)
        assert (refused.exit_code, "hardly change" in refused.stderr) == (1, True)
        assert left_in(gateway) == set()
        version = ran(imported(gateway, saved / "trained", monkeypatch)).strip()
        assert_served_as_trained(home / "adapters" / version, model_dir, saved / "trained")
        wait_loaded(api, version)
        assert promote(api, version).status_code == 200
        assert live_now(api) == version
    with (
        start_engine(home, model_dir, port=port) as engine,
        start_gateway(home, redis_url, engine.url, model=model_dir) as gateway,
        client_of(gateway) as api,
    ):
        wait_until(lambda: load_of(api, version).get("state") == "loaded", within_s=30, what="it is loaded again")
        assert live_now(api) == version
        assert_tampering_is_seen(gateway, api, saved, version)


def client_of(gateway: Gateway) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=120)


def imported(gateway: Gateway, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in [name for name in os.environ if name.startswith("BURNISH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BURNISH_HOME", str(gateway.home))
    monkeypatch.setenv("BURNISH_GATEWAY_URL", gateway.url)
    return CliRunner().invoke(cli.policies, ["import", str(folder), "-r", "a test"])


def assert_served_as_trained(directory: Path, model_dir: Path, trained: Path) -> None:
    """The engine's numbers in the manifest are those that transformers gives for the files as peft saved them."""
    manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    assert manifest.probed_by == "engine"
    off, changed, count = 0.0, 0.0, 0
    for probe in manifest.probes:
        wanted = logprobs(model_dir, probe.token_ids, probe.start, trained)
        off += sum(abs(one - other) for one, other in zip(probe.adapter, wanted, strict=True))
        changed += sum(abs(one - other) for one, other in zip(probe.base, wanted, strict=True))
        count += len(wanted)
    assert off / count < 0.15
    assert changed / count > 2 * off / count


def assert_tampering_is_seen(gateway: Gateway, api: httpx.Client, saved: Path, version: str) -> None:
    """Were the manifest's numbers not compared, an adapter with another's numbers would be promoted."""
    assert api.post("/operator/rollback", json={"reason": "a test"}).status_code == 200
    other = saved / "other"
    config = json.loads((saved / "trained" / "adapter_config.json").read_text())
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 8}))
    (other / "adapter_model.safetensors").write_bytes((saved / "trained" / "adapter_model.safetensors").read_bytes())
    (gateway.home / "imports").mkdir(exist_ok=True)
    other.rename(gateway.home / "imports" / "other")
    second = take_in(api, "other").json()["version"]
    wait_loaded(api, second)
    manifest = gateway.home / "adapters" / second / MANIFEST
    theirs = json.loads((gateway.home / "adapters" / version / MANIFEST).read_text())["probes"]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "probes": theirs}))
    assert "log-probs differ" in error_of(promote(api, second), 409)["message"]
    assert {policy["version"] for policy in api.get(ROUTE).json()["policies"]} == {"v0000-base", version, second}
