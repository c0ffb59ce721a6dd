"""A canary beside the base on the fake engine, which says other words than the base does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from feedback.connection import connect
from feedback.duels import Duel
from feedback.ids import LineName, TurnId, Version
from feedback.keyspace import Keyspace
from tests.fake_engine import BASE, FakeEngine
from tests.serve.conftest import fake_probes
from tests.serve.publish import Publisher
from tests.services import Gateway

ALWAYS = {"share": 0.5, "duel_share": 1.0}
BASES, CANARYS = ("Tea", " is", " a", " drink", "."), ("Tea", " is", " hot", " leaves", " in", " water", ".")
WORDS = {"base": "".join(BASES), "canary": "".join(CANARYS)}


@dataclass(frozen=True)
class Trial:
    """What is being tried out on the users of a gateway."""

    gateway: Gateway
    version: Version

    def standing(self) -> dict[str, Any]:
        return self.call("GET", "/operator/canary")

    def votes(self) -> Mapping[str, int]:
        """The votes that count for the canary."""
        told = self.standing()["decision"]["numbers"]["votes"]
        return {name: told[name] for name in ("wins", "losses", "ties", "both_bad") if told[name]}

    def retire(self) -> None:
        if self.standing()["canary"] is not None:
            self.call("POST", f"/operator/policies/{self.version}/retire", {"reason": "the test is over"})

    def duel(self, turn_id: str) -> Duel:
        """What the ledger knows of a duel, and no voter."""
        row = connect(self.gateway.redis_url).get(Keyspace(LineName("burnish")).duel(TurnId(turn_id)))
        return Duel.model_validate_json(row)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx.request(method, self.gateway.url + path, headers=self.gateway.headers(), json=body, timeout=60)
        assert answer.is_success, answer.text
        told: dict[str, Any] = answer.json()
        return told


def begin_trial(gateway: Gateway, fake: FakeEngine, model_dir: Path, made: Path, **rules: Any) -> Trial:
    """Publishes the adapter files in `made` and tries them out: every question that allows it becomes a duel."""
    trial = Trial(gateway, Publisher(gateway.home, gateway.redis_url, model_dir, fake_probes).publish(made))
    why = {"reason": "to try it out", "rules": ALWAYS | rules}
    trial.call("POST", f"/operator/policies/{trial.version}/canary", why)
    say(fake, trial.version)
    return trial


def say(fake: FakeEngine, version: Version, base: Sequence[str] = BASES, canary: Sequence[str] = CANARYS) -> None:
    fake.behave(words={BASE: base, version: canary})
