"""When it trains, as a table; and API keys on a real Redis."""

import json
import re
from typing import Any

import pytest

from feedback.access_keys import KeyStore, Scope, digest_of
from feedback.connection import connect
from feedback.errors import TenantRefused, UnknownKey
from feedback.ids import KeyId, TenantId
from feedback.quota import UNLIMITED, KeyLimits
from feedback.schedule import ScheduleFacts, ScheduleRules, decide

RULES = ScheduleRules(min_new_pairs=64, settle_s=20, min_pairs=8)


def make_facts(**overrides: Any) -> ScheduleFacts:
    fields: dict[str, Any] = {
        "now": 100.0,
        "counted": "pairs",
        "new": 70,
        "total": 90,
        "last_vote_at": 50.0,
        "job_open": False,
    }
    return ScheduleFacts(**(fields | overrides))


@pytest.mark.parametrize(
    ("facts", "rules", "train", "word"),
    [
        ({}, {}, True, "70 new pairs"),
        ({"new": 63}, {}, False, "63 new pairs"),
        ({"last_vote_at": 81.0}, {}, False, "still coming"),
        ({"last_vote_at": 80.0}, {}, True, "new pairs"),
        ({"last_vote_at": 99.0, "new": 128}, {}, True, "128"),
        ({"job_open": True}, {}, False, "waiting or running"),
        ({"total": 7}, {"min_new_pairs": 2}, False, "7 pairs in all"),
        ({"total": 1, "new": 1}, {}, False, "1 pair in all"),
        ({"counted": "thumbs", "total": 3, "new": 3}, {}, False, "3 thumbs in all, 8 are the least"),
        ({"counted": "demonstrations"}, {}, True, "70 new demonstrations"),
        ({}, {"enabled": False}, False, "switched off"),
        ({"last_vote_at": None}, {}, True, "new pairs"),
    ],
)
def test_it_says_whether_it_would_train_and_why(
    facts: dict[str, Any], rules: dict[str, Any], train: bool, word: str
) -> None:
    decision = decide(RULES.model_copy(update=rules), make_facts(**facts))
    assert decision.train is train
    assert word in " ".join(decision.reasons)


def test_a_key_is_kept_hashed_and_can_be_revoked(redis_url: str) -> None:
    client = connect(redis_url)
    store = KeyStore(client)
    key, secret = store.make("page", frozenset({Scope.chat, Scope.feedback}), TenantId("page"))
    assert secret not in str(client.hgetall("burnish:keys"))
    assert key.secret_digest == digest_of(secret)
    epoch = store.epoch()
    revoked = store.revoke(key.id)
    assert store.epoch() > epoch
    assert revoked.revoked_at is not None
    assert store.adopt(secret, "page", frozenset({Scope.operator}), TenantId("page")) == revoked
    with pytest.raises(UnknownKey):
        store.revoke(KeyId("key-none"))


def test_a_key_keeps_its_limits_and_one_of_before_there_were_any_has_none(redis_url: str) -> None:
    client = connect(redis_url)
    store = KeyStore(client)
    key, _ = store.make("bot", frozenset({Scope.chat}), TenantId("acme"), KeyLimits(60, 20_000))
    assert store.all()[0].limits == KeyLimits(60, 20_000)
    assert store.revoke(key.id).limits == KeyLimits(60, 20_000)
    row = json.loads(client.hget("burnish:keys", key.id))
    old = {name: value for name, value in row.items() if not name.endswith("_per_minute")}
    client.hset("burnish:keys", key.id, json.dumps(old))
    assert store.all()[0].limits == UNLIMITED


@pytest.mark.parametrize("tenant", ["", "a:b", "a b", "a/b", "a\n", "\u00e4", "x" * 65])
def test_a_tenant_has_a_plain_name(redis_url: str, tenant: str) -> None:
    store = KeyStore(connect(redis_url))
    with pytest.raises(TenantRefused, match=re.escape(repr(tenant))):
        store.make("page", frozenset({Scope.chat}), TenantId(tenant))
    assert store.all() == []
    assert store.make("page", frozenset({Scope.chat}), TenantId("Acme-2.eu_west"))[0].tenant == "Acme-2.eu_west"
