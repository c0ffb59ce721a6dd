"""The canary on the status page: its card, the bar of its votes, its tripwires, and what the audit trail keeps."""

import re
from typing import Any

import pytest

from feedback.canary import CanaryRules, Tally, decide
from feedback.traffic import Traffic
from ui.status.canary import canary_html, interval_html, needed, numbers_html
from ui.status.console import Facts
from ui.status.versions import audit_html, not_loaded, policies_html

BASE = "v0000-base"
WELL = Traffic(requests=400, errors=1, first_tokens={40: 399})


def standing(tally: Tally, canary: Traffic = WELL, **rules: Any) -> dict[str, Any]:
    """What `/operator/canary` answers after an hour of such votes and traffic."""
    by = CanaryRules(**rules)
    return {
        "canary": "v0007-3f9a12c04b1e",
        "over": BASE,
        "started_at": 0.0,
        "rules": by.model_dump(mode="json"),
        "decision": decide(by, tally, canary, WELL, 3600.0).model_dump(mode="json"),
    }


def facts(**overrides: Any) -> Facts:
    return Facts(**({"policies": {"policies": []}, "schedule": {}, "jobs": [], "audit": [], "job": None} | overrides))


def text(made: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", made).split())


def test_the_audit_trail_names_a_key_once() -> None:
    entry = {"at": 0.0, "actor": "key key-12ab", "action": "retire", "version": BASE, "reason": "enough"}
    told = text(audit_html(facts(audit=[entry])))
    assert "enough key-12ab" in told


def test_a_median_of_few_requests_has_no_bounds_yet() -> None:
    told = text(canary_html(standing(Tally(), Traffic(requests=1, first_tokens={40: 1}))))
    assert "100 ms no bounds yet" in told
    assert "above 0 ms" not in told


def test_without_a_canary_there_is_no_card() -> None:
    assert canary_html({"canary": None}) == ""
    assert canary_html({}) == ""


def test_the_card_tells_what_is_tried_out_and_how_it_stands() -> None:
    told = text(canary_html(standing(Tally(wins=9, losses=2, ties=3, both_bad=1), share=0.25, duel_share=0.02)))
    assert "v0007 -3f9a12c04b1e goes on" in told
    assert "beside v0000 -base" in told
    assert "25% of all sessions; 2% of the prompts" in told
    assert "Won 9 Lost 2 About the same 3 Both bad 1" in told
    assert "It won 9 of 11 decisive votes" in told
    assert "Errors 0.2%" in told
    assert all(f'data-move="{move}"' in canary_html(standing(Tally())) for move in ("promote", "retire", "withdraw"))


@pytest.mark.parametrize(("tally", "tone"), [((3, 2), "open"), ((60, 10), "good"), ((10, 60), "bad"), ((0, 0), "open")])
def test_the_bar_stands_where_the_bounds_are(tally: tuple[int, int], tone: str) -> None:
    votes = standing(Tally(wins=tally[0], losses=tally[1]))["decision"]["numbers"]["votes"]
    made = interval_html(votes)
    assert f'class="interval {tone}"' in made
    (found,) = re.findall(r"left:([\d.]+)%;width:([\d.]+)%", made)
    left, width = float(found[0]), float(found[1])
    assert left == pytest.approx(100 * votes["lower"], abs=0.1)
    assert left + width == pytest.approx(100 * votes["upper"], abs=0.15)
    assert ('class="dot"' in made) is (tally != (0, 0))
    assert ("No decisive vote yet" in made) is (tally == (0, 0))


@pytest.mark.parametrize(
    ("tally", "rules", "told"),
    [
        (Tally(), {}, ["above 50%", "20 more decisive votes are needed", "after 1000 more votes"]),
        (Tally(wins=10, losses=9, ties=4), {}, ["above 50%", "1 more decisive vote is needed", "after 977 more votes"]),
        (Tally(wins=12, losses=11), {}, ["above 50%", "in 14 days"]),
        (Tally(wins=15, losses=15), {"most_votes": 30, "when_inconclusive": "hold"}, ["no winner and waits for an"]),
        (Tally(ties=3), {"when_inconclusive": "hold"}, ["waits for an operator after 997 more votes"]),
        (Tally(wins=12), {"least_votes": 15}, ["Before it may go live, 3 more decisive votes are needed"]),
    ],
)
def test_what_is_still_needed_is_said_in_words(tally: Tally, rules: dict[str, Any], told: list[str]) -> None:
    said = needed(standing(tally, **rules)["decision"]["numbers"])
    assert all(words in said for words in told), said
    assert ("above 50%" in said) is (tally.wins != 12 or tally.losses > 0)
    assert ("Before it" in said) is (tally.decisive < rules.get("least_votes", 20))


def test_a_tripwire_says_whether_it_fired() -> None:
    failing = Traffic(requests=200, errors=120, first_tokens={80: 80})
    made = canary_html(standing(Tally(), failing))
    rows = {text(row).split(" ")[0]: text(row) for row in made.split("<tr>")[2:]}
    assert rows["Errors"].startswith("Errors 60.0%")
    assert "fired" in rows["Errors"]
    assert "quiet" in rows["Empty"]
    assert "10 s" in rows["Median"]
    assert "is withdrawn" in text(made)
    few = Traffic(requests=20, errors=20)
    assert "too few requests" in text(canary_html(standing(Tally(), few, error_rate=0.0)))
    nothing = standing(Tally())
    nothing["decision"] = decide(CanaryRules(), Tally(), Traffic(), Traffic(), 1.0).model_dump(mode="json")
    assert text(canary_html(nothing)).count("nothing yet nothing yet no limit yet quiet") == 4


def test_the_audit_trail_keeps_the_numbers_of_a_decision_folded() -> None:
    decision = standing(Tally(wins=60, losses=10))["decision"]
    entry = {"at": 5.0, "actor": "canary", "action": "promote", "version": "v0007-3f9a", "reason": decision["reason"]}
    plain = audit_html(facts(audit=[{**entry, "numbers": {}}]))
    assert "<details" not in plain
    made = audit_html(facts(audit=[{**entry, "numbers": decision["numbers"]}]))
    assert "<details data-keep=" in made
    assert "Won 60 Lost 10" in text(made)
    assert "Median time to first token" in made
    assert numbers_html({"something": "else"}) == ""


def test_what_the_gateway_says_cannot_run() -> None:
    hostile = standing(Tally()) | {"canary": "v1-<script>", "over": "v0-<script>"}
    hostile["decision"]["reason"] = "<script>"
    assert "<script" not in canary_html(hostile)


def make_policy(version: str, state: str = "candidate", **overrides: Any) -> dict[str, Any]:
    fields = {"version": version, "state": state, "adapter": version, "created_at": 0.0, "load": None, "replicas": {}}
    return {**fields, "history": [], **overrides}


LOADED, LOADING = {"state": "loaded", "error": None}, {"state": "loading", "error": None}
REFUSED = {"state": "refused", "error": "its numbers <differ>"}


@pytest.mark.parametrize(
    ("replicas", "lines"),
    [
        ({"a:1": LOADED, "b:2": LOADED}, []),
        ({"a:1": LOADED}, ["Not loaded on b:2."]),
        ({"a:1": LOADED, "b:2": LOADING}, ["Being loaded on b:2."]),
        ({"a:1": REFUSED, "b:2": LOADED}, ["Not loaded on a:1: its numbers <differ>"]),
        ({"a:1": LOADED, "b:2": LOADED, "gone:3": REFUSED}, []),
        ({}, []),
    ],
)
def test_a_version_missing_on_a_replica_that_answers_is_said(replicas: dict[str, Any], lines: list[str]) -> None:
    assert not_loaded(make_policy("v0001-a", replicas=replicas), ["a:1", "b:2"]) == lines


def test_only_replicas_that_answer_are_spoken_of_and_only_for_versions_that_serve() -> None:
    base = make_policy(BASE, "live", adapter=None, replicas={"a:1": LOADED, "b:2": LOADING})
    there = make_policy("v0001-a", "canary", replicas={"a:1": LOADED})
    gone = make_policy("v0002-b", "withdrawn", replicas={"a:1": {"state": "draining", "error": None}})
    assert "oaded" not in policies_html(facts(policies={"policies": [gone, there, base]}))
    base["replicas"]["b:2"] = LOADED
    made = policies_html(facts(policies={"policies": [gone, there, base]}))
    assert re.findall(r'class="wrong">([^<]*)<', made) == ["Not loaded on b:2."]


def test_while_there_is_a_canary_no_other_is_tried_out() -> None:
    def button(*states: str) -> str:
        policies = [make_policy(f"v000{at}-x", state) for at, state in enumerate(states)]
        made = policies_html(facts(policies={"policies": policies}))
        return made.partition('data-move="canary"')[2].partition(">")[0]

    assert "disabled" not in button("candidate")
    assert "disabled" in button("candidate", "canary")
