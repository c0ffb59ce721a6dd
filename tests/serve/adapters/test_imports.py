"""Adapters from outside, on the fake engine: sound ones become candidates, hostile ones leave nothing behind."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from feedback.connection import connect
from feedback.ids import LineName, Version
from feedback.policies import Imported, Policy, PolicyState
from feedback.registry import Registry, Why
from serve import cli
from serve.adapters.adapter_files import AdapterRefused
from serve.adapters.import_files import copy_adapter
from serve.adapters.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest
from tests.adapters import make_adapter
from tests.fake_engine import FakeEngine
from tests.serve.adapters.hostile import MAKERS, NAMES, put_sound
from tests.serve.adapters.test_adapter_files import change_config
from tests.serve.publish import Publisher, base_digest
from tests.serve.replicas.test_swap import live_now, promote, wait_loaded
from tests.serve.test_bad_input import error_of
from tests.serve.test_cli import burnish, ran  # noqa: F401 - a fixture
from tests.services import Gateway, start_gateway

ROUTE = "/operator/policies"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    return make_adapter(tmp_path_factory.mktemp("sound") / "small", model_dir, seed=6, rank=2)


def take_in(api: httpx.Client, directory: Any = "stranger", **more: Any) -> httpx.Response:
    # Written by hand: httpx would not send half a letter.
    body = json.dumps({"directory": directory, "reason": "a test", **more})
    return api.post(ROUTE, content=body.encode(), headers={"content-type": "application/json"})


def left_in(gateway: Gateway) -> set[str]:
    """What lies in the adapters folder, but for the lock that every import takes."""
    return {entry.name for entry in (gateway.home / "adapters").iterdir()} - {".imports.lock"}


def untouched(api: httpx.Client, gateway: Gateway, fake: FakeEngine) -> None:
    assert fake.loads == []
    assert [policy["version"] for policy in api.get(ROUTE).json()["policies"]] == ["v0000-base"]
    assert api.get("/operator/audit").json() == {"audit": []}
    assert left_in(gateway) == set()


def test_there_are_enough_hostile_adapters() -> None:
    assert len(MAKERS) + len(NAMES) >= 60


@pytest.mark.parametrize("name", MAKERS)
def test_a_hostile_adapter_is_refused_with_the_reason_and_leaves_nothing(
    name: str, shared_api: httpx.Client, shared_gateway: Gateway, shared_fake: FakeEngine, sound: Path
) -> None:
    spoil, words = MAKERS[name]
    spoil(put_sound(shared_gateway.home / "imports", sound))
    answer = take_in(shared_api)
    error = error_of(answer, 400)
    assert error["code"] == "adapter_refused"
    assert words in error["message"]
    assert len(error["message"]) < 700
    untouched(shared_api, shared_gateway, shared_fake)


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_refused(
    name: str, shared_api: httpx.Client, shared_gateway: Gateway, shared_fake: FakeEngine, sound: Path
) -> None:
    inner = put_sound(shared_gateway.home / "imports", sound) / "inner"
    shutil.copytree(sound, inner)
    answer = take_in(shared_api, NAMES[name])
    assert error_of(answer, 400)["param"] == "directory"
    untouched(shared_api, shared_gateway, shared_fake)


def test_another_base_and_other_fields_are_refused(
    shared_api: httpx.Client, shared_gateway: Gateway, shared_fake: FakeEngine, sound: Path, model_dir: Path
) -> None:
    put_sound(shared_gateway.home / "imports", sound)
    other = error_of(take_in(shared_api, base_digest="0" * 64), 400)
    assert base_digest(model_dir)[:12] in other["message"]
    for body in ({"base_digest": "0"}, {"version": "v0000-base"}, {"reason": ""}, {"state": "live"}):
        assert take_in(shared_api, **body).status_code == 400
    untouched(shared_api, shared_gateway, shared_fake)


def test_weights_that_change_while_they_are_copied_are_refused(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read
    stranger = shutil.copytree(sound, tmp_path / "stranger")

    def meddle(handle: int, most: int) -> bytes:
        found = read(handle, most)
        with (stranger / WEIGHTS).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\1\2" if grows else b"\1")
        os.utime(stranger / WEIGHTS, ns=(1, 1))
        return found

    for grows in (False, True):
        into = tmp_path / f"into-{grows}"
        into.mkdir()
        with monkeypatch.context() as patched:
            patched.setattr(os, "read", meddle)
            with pytest.raises(AdapterRefused, match="changed while it was copied"):
                copy_adapter(stranger, into, 1 << 30)


def test_an_adapter_as_peft_saves_it_becomes_a_candidate_and_serves(
    api: httpx.Client, gateway: Gateway, fake: FakeEngine, sound: Path, model_dir: Path
) -> None:
    stranger = put_sound(gateway.home / "imports", sound)
    (stranger / "README.md").write_text("# Model card")
    change_config(peft_version="0.21.2", revision=None, auto_mapping=None, target_modules="(a+)+$")(stranger)
    answer = take_in(api, base_digest=base_digest(model_dir))
    assert answer.status_code == 201, answer.text
    policy = answer.json()
    version = policy["version"]
    assert (policy["state"], policy["already"], policy["gate"], policy["metrics"]) == ("candidate", False, None, {})
    assert policy["imported"]["directory"] == "stranger"
    assert policy["imported"]["files"].keys() == {CONFIG, WEIGHTS}
    assert left_in(gateway) == {version}
    made = gateway.home / "adapters" / version
    assert {entry.name for entry in made.iterdir()} == {CONFIG, WEIGHTS, MANIFEST}
    assert "peft_version" not in (made / CONFIG).read_text()
    manifest = Manifest.model_validate_json((made / MANIFEST).read_bytes())
    assert (manifest.probed_by, manifest.imported) == ("engine", Imported(**policy["imported"]))
    (entry,) = api.get("/operator/audit").json()["audit"]
    assert (entry["action"], entry["reason"], entry["version"]) == ("import", "a test", version)
    assert entry["actor"].startswith("key ")
    wait_loaded(api, version)
    assert promote(api, version).status_code == 200
    assert live_now(api) == version


def test_the_same_adapter_again_is_the_version_that_it_was_and_a_withdrawn_one_does_not_come_back(
    api: httpx.Client, gateway: Gateway, sound: Path
) -> None:
    stranger = put_sound(gateway.home / "imports", sound)
    version = take_in(api).json()["version"]
    change_config(lora_dropout=0.3, base_model_name_or_path="elsewhere/base")(stranger)  # the weights are the same
    again = take_in(api)
    assert (again.status_code, again.json()["version"], again.json()["already"]) == (200, version, True)
    assert left_in(gateway) == {version}
    assert api.post(f"{ROUTE}/{version}/withdraw", json={"reason": "a test"}).status_code == 200
    assert version in error_of(take_in(api), 409)["message"]


Failing = Callable[[FakeEngine], None]
ENGINES: dict[str, tuple[Failing, int, str]] = {
    "away": (lambda fake: fake.behave(away=True), 503, "engine is away"),
    "refuses it": (lambda fake: fake.behave(refuse_load=True), 400, "would not load it"),
    "is not changed by it": (lambda fake: fake.behave(deaf=True), 400, "hardly change"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_an_adapter_that_does_not_stand_up_in_the_engine_is_not_entered(
    name: str, api: httpx.Client, gateway: Gateway, fake: FakeEngine, sound: Path
) -> None:
    put_sound(gateway.home / "imports", sound)
    fail, status, words = ENGINES[name]
    fail(fake)
    assert words in error_of(take_in(api), status)["message"]
    assert left_in(gateway) == set()
    assert fake.adapters == {}
    assert len(api.get(ROUTE).json()["policies"]) == 1
    fake.behave(away=False, refuse_load=False, deaf=False)
    assert take_in(api).status_code == 201


def kill(gateway: Gateway) -> None:
    """SIGKILL to the gateway alone."""
    for process in psutil.Process().children():
        if "serve.app" in process.cmdline() and process.environ().get("BURNISH_HOME") == str(gateway.home):
            process.kill()


def test_a_gateway_killed_in_mid_import_leaves_nothing_after_its_next_start(
    tmp_path: Path, redis_url: str, fake: FakeEngine, model_dir: Path, sound: Path
) -> None:
    home = tmp_path / "home"
    with start_gateway(home, redis_url, fake.url, model=model_dir) as gateway:
        put_sound(home / "imports", sound)
        fake.behave(delay_s=60)
        with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=0.7) as client:
            with pytest.raises(httpx.ReadTimeout):
                take_in(client)
            assert error_of(take_in(client), 503)["code"] == "import_running"
        assert [name[:8] for name in left_in(gateway)] == [".import-"]
        kill(gateway)
    fake.behave(delay_s=0)
    with start_gateway(home, redis_url, fake.url, model=model_dir) as gateway:
        assert left_in(gateway) == set()
        with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=60) as client:
            untouched(client, gateway, replace(fake, loads=[]))
            assert take_in(client).status_code == 201


def after_a_kill(gateway: Gateway, registry: Registry, *, entered: bool) -> Version:
    """The folders as a gateway leaves them that is killed at the last step, before the registry's write or after."""
    version = Version("v0009-aaaaaaaaaaaa")
    adapters = gateway.home / "adapters"
    (adapters / version).mkdir(parents=True)
    (adapters / ".import-1").mkdir()
    (adapters / ".import-1" / "moved").write_text(version)
    if entered:
        candidate = PolicyState.candidate
        row = Policy(version=version, counter=9, state=candidate, base_digest="b", digest="d", created_at=0)
        registry.enter_import(row, Why("test", "a test"))
    return version


@pytest.mark.parametrize("entered", [False, True])
def test_what_a_kill_at_the_last_step_left_is_kept_if_it_was_entered_and_removed_otherwise(
    entered: bool, api: httpx.Client, gateway: Gateway, sound: Path
) -> None:
    registry = Registry(connect(gateway.redis_url), LineName("burnish"))
    version = after_a_kill(gateway, registry, entered=entered)
    put_sound(gateway.home / "imports", sound)
    new = take_in(api).json()["version"]
    assert left_in(gateway) == ({version, new} if entered else {new})


def test_the_command_imports_a_folder_from_anywhere_and_leaves_no_copy(
    burnish: Any,  # noqa: F811
    api: httpx.Client,
    gateway: Gateway,
    sound: Path,
    tmp_path: Path,
    publisher: Publisher,
) -> None:
    mine = shutil.copytree(sound, tmp_path / "My Adapter")
    (mine / "README.md").write_text("# Model card")
    version = ran(burnish.invoke(cli.policies, ["import", str(mine), "-r", "a test"])).strip()
    assert api.get(f"{ROUTE}/{version}").json()["imported"]["directory"].startswith("my-adapter-")
    again = burnish.invoke(cli.policies, ["import", str(mine), "-r", "a test"])
    assert (again.stdout.strip(), "candidate" in again.stderr) == (version, True)
    change_config(use_dora=True)(mine)
    refused = burnish.invoke(cli.policies, ["import", str(mine), "-r", "a test"])
    assert (refused.exit_code, "use_dora" in refused.stderr) == (1, True)
    (tmp_path / "link").symlink_to(mine)
    for wrong, words in (("link", "is a link"), ("nobody", "No such file")):
        refused = burnish.invoke(cli.policies, ["import", str(tmp_path / wrong), "-r", "a test"])
        assert (refused.exit_code, words in refused.stderr) == (1, True), refused.stderr
    assert list((gateway.home / "imports").iterdir()) == []
