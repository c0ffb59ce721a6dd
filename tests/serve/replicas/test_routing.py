"""Which replica answers. Pure."""

from collections import Counter

import pytest

from serve.replicas.routing import SPARE, choose

NAMES = ("one", "two", "three")


def test_the_idlest_replica_answers_what_belongs_to_no_session() -> None:
    assert choose({"one": 2, "two": 0, "three": 1}, "any", sticky=False) == "two"


def test_equally_idle_replicas_share_the_requests() -> None:
    idle = dict.fromkeys(NAMES, 3)
    shares = Counter(choose(idle, f"turn-{i}", sticky=False) for i in range(3000))
    assert all(share == pytest.approx(1000, abs=120) for share in shares.values())


def test_a_session_stays_with_its_replica_until_that_one_is_far_busier() -> None:
    home = choose(dict.fromkeys(NAMES, 0), "session", sticky=True)
    assert choose(dict.fromkeys(NAMES, 0) | {home: SPARE}, "session", sticky=True) == home
    assert choose(dict.fromkeys(NAMES, 0) | {home: SPARE + 1}, "session", sticky=True) != home


def test_a_replica_that_goes_moves_its_own_sessions_alone() -> None:
    sessions = [f"session-{i}" for i in range(300)]
    before = {s: choose(dict.fromkeys(NAMES, 0), s, sticky=True) for s in sessions}
    after = {s: choose({"one": 0, "two": 0}, s, sticky=True) for s in sessions}
    assert {s for s in sessions if before[s] != after[s]} == {s for s in sessions if before[s] == "three"}


def test_there_must_be_a_replica() -> None:
    with pytest.raises(KeyError):
        choose({}, "any", sticky=True)
