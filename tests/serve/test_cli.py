"""`burnish keys` and `burnish policies` against a running gateway."""

import os
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from serve import cli
from tests.fake_engine import FakeEngine
from tests.serve.access.test_doors import knows
from tests.serve.publish import Publisher
from tests.serve.replicas.test_swap import live_now, wait_loaded
from tests.services import Gateway, wait_until


@pytest.fixture
def burnish(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in [name for name in os.environ if name.startswith("BURNISH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BURNISH_HOME", str(gateway.home))
    monkeypatch.setenv("BURNISH_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("BURNISH_REDIS_URL", gateway.redis_url)
    return CliRunner()


def ran(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_keys_are_made_listed_and_revoked(burnish: CliRunner, gateway: Gateway) -> None:
    secret = ran(burnish.invoke(cli.keys, ["make", "bot", "-s", "chat", "--tenant", "acme"])).strip()
    assert secret.startswith("bk-")
    with httpx.Client(base_url=gateway.url) as client:
        wait_until(lambda: knows(client, secret), within_s=2, what="the key is let in")
        listed = ran(burnish.invoke(cli.keys, ["list"]))
        assert secret not in listed
        row = next(line for line in listed.splitlines() if "bot" in line)
        assert "acme" in row
        assert "revoked" not in row
        assert "revoked" in ran(burnish.invoke(cli.keys, ["revoke", row.split()[0]]))
        wait_until(lambda: not knows(client, secret), within_s=2, what="the key is refused")
    unknown = burnish.invoke(cli.keys, ["revoke", "key-none"])
    assert unknown.exit_code == 1
    assert "key-none" in unknown.stderr


def test_a_keys_limits_are_given_and_listed(burnish: CliRunner) -> None:
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "20000"]
    ran(burnish.invoke(cli.keys, ["make", "bot", *limits]))
    ran(burnish.invoke(cli.keys, ["make", "free"]))
    listed = ran(burnish.invoke(cli.keys, ["list"])).splitlines()
    assert "60 requests/min, 20000 tokens/min" in next(line for line in listed if "bot" in line)
    for name in ("free", "operator", "page", "worker"):
        assert "no limits" in next(line for line in listed if f" {name} " in line)
    assert burnish.invoke(cli.keys, ["make", "none", "--tokens-per-minute", "0"]).exit_code != 0


def test_policies_are_listed_promoted_and_rolled_back(
    burnish: CliRunner, publisher: Publisher, two_adapters: tuple[Path, Path], api: httpx.Client, fake: FakeEngine
) -> None:
    version = publisher.publish(two_adapters[0])
    wait_loaded(api, version)
    assert version in ran(burnish.invoke(cli.policies, ["list"]))
    assert f"live {version}" in ran(burnish.invoke(cli.policies, ["promote", version, "-r", "it is better"]))
    assert live_now(api) == version
    assert "live v0000-base" in ran(burnish.invoke(cli.policies, ["rollback", "-r", "it is not"]))
    assert live_now(api) == "v0000-base"
    refused = burnish.invoke(cli.policies, ["withdraw", version, "-r", "again"])
    assert refused.exit_code == 1
    assert "withdrawn" in refused.stderr
    without_reason = burnish.invoke(cli.policies, ["rollback"])
    assert without_reason.exit_code != 0


def test_a_candidate_is_tried_out_looked_at_and_put_away(
    burnish: CliRunner, publisher: Publisher, two_adapters: tuple[Path, Path], api: httpx.Client, fake: FakeEngine
) -> None:
    assert "no version is being tried out" in ran(burnish.invoke(cli.policies, ["trial"]))
    version = publisher.publish(two_adapters[0])
    begin = ["canary", version, "-r", "votes decide"]
    refused = burnish.invoke(cli.policies, [*begin, "--share", "0.9"])
    assert refused.exit_code == 1
    assert "rules.share is 0.9" in refused.stderr
    begun = ran(burnish.invoke(cli.policies, [*begin, "--duel-share", "1"])).splitlines()
    assert "live v0000-base" in begun[0]
    assert f"canary {version} beside v0000-base" in begun[1]
    assert "10% of sessions, 100% of prompts" in begun[2]
    told = ran(burnish.invoke(cli.policies, ["trial"])).splitlines()
    assert len(told) == 6
    assert f"canary {version} beside v0000-base" in told[0]
    assert "10% of sessions, 100% of prompts" in told[1]
    assert "0 won, 0 lost, 0 ties, 0 both bad; 20 decisive" in told[2]
    assert "between 0.0% and 100.0%" in told[3]
    assert "fired: none" in told[4]
    assert "wait: no decisive vote has come" in told[5]
    assert burnish.invoke(cli.policies, ["canary", version, "-r", "again"]).exit_code == 1
    assert "live v0000-base" in ran(burnish.invoke(cli.policies, ["retire", version, "-r", "enough"]))
    assert api.get(f"/operator/policies/{version}").json()["state"] == "retired"
    assert "no version is being tried out" in ran(burnish.invoke(cli.policies, ["trial"]))


def test_the_lines_on_a_trial_say_what_was_counted_and_what_fired() -> None:
    votes = {"wins": 9, "losses": 2, "ties": 3, "both_bad": 1, "lower": 0.4812, "upper": 0.9777}
    lines = cli.trial_lines(
        {
            "canary": "v0007-abc",
            "over": "v0006-def",
            "started_at": 0.0,
            "rules": {"share": 0.25, "duel_share": 0.5, "least_votes": 20},
            "decision": {
                "kind": "withdraw",
                "reason": "its share of errors is too high",
                "fired": ["errors", "first_token"],
                "numbers": {"votes": votes},
            },
        }
    )
    assert lines[1:] == [
        "share  25% of sessions, 50% of prompts as duels",
        "votes  9 won, 2 lost, 3 ties, 1 both bad; 20 decisive ones are the least to go live",
        "wins   between 48.1% and 97.8% in the long run",
        "wires  fired: errors, first_token",
        "so     withdraw: its share of errors is too high",
    ]
