"""The ledger on a real Redis."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from feedback.connection import check_durability, connect
from feedback.errors import (
    IdempotencyConflict,
    LedgerUnavailable,
    StatementRefused,
    UnknownEvent,
    UnknownTurn,
)
from feedback.ids import LineName, TenantId, UserId
from feedback.ledger import Ledger, Speaker
from feedback.lessons import BOTH_BAD, DISLIKED, EDIT, LIKED, PREFERRED, TIE
from feedback.standing import standing
from feedback.turn_rows import TURN_TTL_S
from tests.feedback.makers import TENANT, comparison, make_turn, said
from tests.services import start_redis

ANN = Speaker(TENANT, UserId("ann"))
ALL = (PREFERRED, TIE, BOTH_BAD, EDIT, LIKED, DISLIKED)


@pytest.fixture
def ledger(redis_url: str) -> Ledger:
    return Ledger(connect(redis_url), LineName("burnish"))


def two_turns(ledger: Ledger, **overrides: object) -> tuple[str, str]:
    first, second = make_turn(**overrides), make_turn(answer="Another.", **overrides)
    ledger.append_turns([first, second])
    return first.id, second.id


def test_turns_come_back_as_they_were_and_newest_first(ledger: Ledger) -> None:
    old = make_turn(at=1.0, user="ann", session="s1", logprobs=(-0.5, -1.0, -0.1))
    new = make_turn(at=2.0, user="ann", session="s2")
    other = make_turn(at=3.0, user="ben", session="s1")
    ledger.append_turns([old, new, other])
    assert ledger.turn(old.id) == old
    assert ledger.turns_of(TENANT, user=UserId("ann")) == [new, old]
    assert ledger.turns_of(TENANT, session="s1") == [other, old]
    assert ledger.turns_of(TENANT, user=UserId("ann"), session="s1") == [old]
    assert ledger.turns_of(TENANT, limit=1) == [other]
    assert ledger.turns_of(TenantId("another")) == []


def test_a_turn_is_kept_for_ever_once_an_event_is_about_it(ledger: Ledger, redis_url: str) -> None:
    first, second = two_turns(ledger)
    client = connect(redis_url)
    key = f"burnish:burnish:turn:{first}"
    assert 0 < client.ttl(key) <= 30 * 24 * 3600
    ledger.append_event(comparison(first, second), ANN)
    assert client.ttl(key) == -1


def test_the_indexes_of_turns_forget_what_is_no_longer_kept(ledger: Ledger, redis_url: str) -> None:
    client = connect(redis_url)
    old = make_turn(at=1000.0, user="ann", session="s")
    ledger.append_turns([old])
    indexes = client.keys("burnish:burnish:turns:*")
    assert len(indexes) == 3
    assert all(0 < client.ttl(index) <= TURN_TTL_S for index in indexes)
    within = make_turn(at=1000.0 + TURN_TTL_S, user="ann", session="s")
    ledger.append_turns([within])
    assert ledger.turns_of(TENANT) == [within, old]
    later = make_turn(at=1001.0 + TURN_TTL_S, user="ann", session="s")
    ledger.append_turns([later])
    assert {client.zcard(index) for index in indexes} == {2}
    assert ledger.turns_of(TENANT, user=UserId("ann")) == [later, within]
    assert ledger.turn(old.id) == old


def test_a_turn_that_cannot_be_read_hides_no_other_and_is_logged(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(210):
        deep = {"a": deep}
    good, bad = make_turn(at=1.0), make_turn(at=2.0, sampling={"response_format": deep})
    ledger.append_turns([good, bad])
    assert ledger.turns_of(TENANT) == [good]
    assert ledger.turns([bad.id, good.id]) == {good.id: good}
    assert bad.id in caplog.text
    with pytest.raises(UnknownTurn):
        ledger.append_event(said("rating", turn_id=bad.id, value="up"), ANN)


def test_tenants_whose_names_run_into_each_other_see_their_own_turns_alone(ledger: Ledger) -> None:
    mine = make_turn(user="all:")
    ledger.append_turns([mine])
    assert ledger.turns_of(TenantId(f"{TENANT}:user")) == []
    ledger.append_turns([make_turn(id=mine.id, tenant="else")])
    assert ledger.turns_of(TenantId("else")) == []
    assert ledger.turns_of(TENANT, user=UserId("all:")) == [mine]


def test_events_are_counted_in_order_and_found_by_their_turns(ledger: Ledger) -> None:
    first, second = two_turns(ledger)
    one = ledger.append_event(comparison(first, second), ANN).event
    two = ledger.append_event(said("rating", turn_id=first, value="down", reasons=["wrong"]), ANN).event
    assert (one.ordinal, two.ordinal) == (1, 2)
    assert ledger.events_about(first) == [one, two]
    assert ledger.standing_events() == list(ledger.logged_events()) == [one, two]
    counts = ledger.vote_counts()
    assert (counts.events, counts.pairs, counts.people) == (2, 1, 2)
    assert ledger.lessons([PREFERRED, DISLIKED, TIE]) == {PREFERRED: 1, DISLIKED: 1, TIE: 0}
    assert ledger.lessons([PREFERRED, DISLIKED], after=1) == {PREFERRED: 0, DISLIKED: 1}


def test_the_view_agrees_with_the_log_after_every_kind_of_event_and_after_a_rebuild(
    ledger: Ledger, redis_url: str
) -> None:
    first, second = two_turns(ledger)
    a = ledger.append_event(comparison(first, second), ANN).event
    ledger.append_event(comparison(second, first, "tie"), ANN)
    assert ledger.vote_counts().pairs == 0
    b = ledger.append_event(comparison(first, second, "second"), ANN).event
    ledger.append_event(comparison(first, second), Speaker(TENANT, UserId("ben")))
    thumb = ledger.append_event(said("rating", turn_id=first, value="up"), ANN).event
    ledger.append_event(said("retract", event_id=a.id), ANN)
    assert b in ledger.standing_events()
    ledger.append_event(said("retract", event_id=thumb.id), ANN)
    ledger.append_event(said("rating", turn_id=second, value="up"), ANN)
    ledger.append_event(said("rating", turn_id=second, value="down"), ANN)
    seen = ledger.standing_events()
    counts, lessons = ledger.vote_counts(), ledger.lessons(ALL)
    assert lessons == {**dict.fromkeys(ALL, 0), PREFERRED: 2, DISLIKED: 1}
    assert seen == standing(ledger.logged_events())
    client = connect(redis_url)
    client.delete(
        "burnish:burnish:slots",
        "burnish:burnish:standing",
        "burnish:burnish:lesson-rows",
    )
    client.zadd("burnish:burnish:lessons", {"liked:000000000002:ev-stray": 0})
    assert ledger.rebuild() == 9
    assert ledger.standing_events() == seen
    assert (ledger.vote_counts(), ledger.lessons(ALL)) == (counts, lessons)


def test_a_ledger_kept_before_lessons_were_counted_is_counted_once(ledger: Ledger, redis_url: str) -> None:
    first, second = two_turns(ledger)
    compared = ledger.append_event(comparison(first, second), ANN).event
    ledger.append_event(said("rating", turn_id=first, value="up"), ANN)
    ledger.append_event(said("rating", turn_id=second, value="down"), ANN)
    counted = ledger.lessons(ALL, after=1)
    assert ledger.fill_lessons() == 0
    client = connect(redis_url)
    client.delete("burnish:burnish:lessons", "burnish:burnish:lesson-rows")
    assert ledger.vote_counts().pairs == 0
    assert ledger.fill_lessons() == 3
    assert ledger.lessons(ALL, after=1) == counted == {**dict.fromkeys(ALL, 0), LIKED: 1, DISLIKED: 1}
    ledger.append_event(said("retract", event_id=compared.id), ANN)
    assert ledger.vote_counts().pairs == 0


def test_the_log_alone_brings_back_everything_that_was_said(ledger: Ledger, redis_url: str) -> None:
    first, second = two_turns(ledger)
    by_ann = ledger.append_event(comparison(first, second), ANN).event
    by_ben = ledger.append_event(comparison(first, second), Speaker(TENANT, UserId("ben"))).event
    back = ledger.append_event(said("retract", event_id=by_ben.id), Speaker(TENANT, UserId("ben"))).event
    counts, last_vote_at = ledger.vote_counts(), ledger.last_vote_at()
    client = connect(redis_url)
    kept = {"burnish:burnish:log", *(f"burnish:burnish:turn:{turn}" for turn in (first, second))}
    client.delete(*(key for key in client.keys("burnish:burnish:*") if key not in kept))
    assert ledger.rebuild() == 3
    assert ledger.standing_events() == [by_ann]
    assert ledger.events_about(first) == [by_ann, by_ben, back]
    assert (ledger.vote_counts(), ledger.last_vote_at()) == (counts, last_vote_at)
    assert ledger.last_ordinal() == 3
    ledger.append_event(comparison(second, first), Speaker(TENANT, UserId("cleo")))
    assert ledger.lessons([PREFERRED], after=3) == {PREFERRED: 1}


def test_one_idempotency_key_makes_one_event(ledger: Ledger) -> None:
    first, second = two_turns(ledger)
    made = ledger.append_event(comparison(first, second), ANN, idempotency_key="k")
    again = ledger.append_event(comparison(first, second), ANN, idempotency_key="k")
    assert (made.created, again.created) == (True, False)
    assert made.event == again.event
    with pytest.raises(IdempotencyConflict, match="'k'"):
        ledger.append_event(comparison(first, second, "second"), ANN, idempotency_key="k")
    assert len(list(ledger.logged_events())) == 1
    other_tenant = make_turn(tenant="else")
    ledger.append_turns([other_tenant])
    assert ledger.append_event(
        said("rating", turn_id=other_tenant.id, value="up"),
        Speaker(TenantId("else")),
        idempotency_key="k",
    ).created


def test_twenty_callers_with_one_key_at_once_make_one_event(ledger: Ledger) -> None:
    first, second = two_turns(ledger)
    made: list[bool] = []

    def vote() -> None:
        made.append(ledger.append_event(comparison(first, second), ANN, idempotency_key="k").created)

    threads = [threading.Thread(target=vote) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 19 + [True]
    assert len(list(ledger.logged_events())) == 1


def test_a_judge_speaking_about_a_persons_turn_leaves_the_persons_vote(ledger: Ledger) -> None:
    first, second = two_turns(ledger, user="ann")
    by_ann = ledger.append_event(comparison(first, second), Speaker(TENANT)).event
    judged = ledger.append_event(comparison(first, second, "second", source="judge"), Speaker(TENANT)).event
    assert ledger.standing_events() == [by_ann, judged]


def test_an_idempotency_key_is_one_tenants_own_however_the_names_run_together(ledger: Ledger) -> None:
    theirs, mine = make_turn(tenant="a:b"), make_turn(tenant="a")
    ledger.append_turns([theirs, mine])
    for turn, key in ((theirs, "c"), (mine, "b:c")):
        vote = said("rating", turn_id=turn.id, value="up")
        assert ledger.append_event(vote, Speaker(turn.tenant), idempotency_key=key).created


def test_what_is_not_theirs_does_not_exist_for_them_and_nothing_is_recorded(
    ledger: Ledger,
) -> None:
    first, second = two_turns(ledger, user="ann")
    for speaker in (Speaker(TenantId("else")), Speaker(TENANT, UserId("ben"))):
        with pytest.raises(UnknownTurn):
            ledger.append_event(comparison(first, second), speaker)
    with pytest.raises(UnknownTurn, match="nowhere"):
        ledger.append_event(comparison(first, "nowhere"), ANN)
    mine = ledger.append_event(comparison(first, second), ANN).event
    with pytest.raises(UnknownEvent):
        ledger.append_event(said("retract", event_id=mine.id), Speaker(TENANT, UserId("ben")))
    assert list(ledger.logged_events()) == [mine]


def test_statements_that_make_no_sense_of_the_turns_are_refused(ledger: Ledger) -> None:
    turn = make_turn()
    other = make_turn(messages=({"role": "user", "content": "something else"},))
    once, twice = (make_turn(kind="completion", messages=(), prompt=prompt) for prompt in ("Once", "Twice"))
    ledger.append_turns([turn, other, once, twice])
    with pytest.raises(StatementRefused, match="different prompts"):
        ledger.append_event(comparison(once.id, twice.id), ANN)
    with pytest.raises(StatementRefused, match="different prompts"):
        ledger.append_event(comparison(turn.id, other.id), ANN)
    with pytest.raises(StatementRefused, match="changes nothing"):
        ledger.append_event(said("edit", turn_id=turn.id, text=turn.answer), ANN)
    assert list(ledger.logged_events()) == []


def test_a_vote_accepted_before_kill_9_is_there_afterwards(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        assert check_durability(connect(server)) == []
        ledger = Ledger(connect(server), LineName("burnish"))
        first, second = two_turns(ledger)
        event = ledger.append_event(comparison(first, second), ANN).event
        os.kill(connect(server).info("server")["process_id"], signal.SIGKILL)
        with pytest.raises(LedgerUnavailable):
            ledger.vote_counts()
    with start_redis(tmp_path) as server:
        assert list(Ledger(connect(server), LineName("burnish")).logged_events()) == [event]


def test_a_redis_that_cannot_keep_the_promise_is_told_plainly(redis_url: str) -> None:
    client = connect(redis_url)
    assert check_durability(client) == []
    client.config_set("appendfsync", "everysec")
    try:
        (finding,) = check_durability(client)
    finally:
        client.config_set("appendfsync", "always")
    assert "appendfsync" in finding
    assert "everysec" in finding


def test_a_redis_that_is_gone_is_said_so() -> None:
    with pytest.raises(LedgerUnavailable, match="try again"):
        Ledger(connect("redis://127.0.0.1:1/0"), LineName("burnish")).vote_counts()
