"""Trying a candidate out on users: sides, blind duels, and what the votes and the tripwires lead to."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from feedback.canary import on_canary_side
from feedback.connection import connect
from feedback.duels import Duel
from feedback.ids import LineName, TurnId, Version
from feedback.keyspace import Keyspace
from tests.fake_engine import WORDS, FakeEngine
from tests.serve.conftest import ask
from tests.serve.publish import Publisher
from tests.serve.replicas.test_swap import WHY, go_live, live_now, promote
from tests.serve.test_bad_input import error_of
from tests.serve.test_streams import CHAT, events_of, streamed, text_of
from tests.services import Gateway, wait_until

BASE = "v0000-base"
QUICK = {"share": 0.5, "duel_share": 1.0, "alpha": 0.2, "least_votes": 3, "least_requests": 8}
Side = Literal["canary", "live"]


@dataclass(frozen=True)
class Trial:
    """A version that is being tried out beside the base, and what its users do."""

    api: httpx.Client
    redis_url: str
    version: Version

    def standing(self) -> dict[str, Any]:
        body: dict[str, Any] = self.api.get("/operator/canary").json()
        return body

    def votes(self) -> dict[str, Any]:
        votes: dict[str, Any] = self.standing()["decision"]["numbers"]["votes"]
        return votes

    def state(self) -> str:
        return str(self.api.get(f"/operator/policies/{self.version}").json()["state"])

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.state() == state, within_s=15, what=lambda: f"{state}; now {self.state()}")

    def duel(self, user: str = "ann", **fields: Any) -> str:
        """The id of a duel that was just answered."""
        body = ask(metadata={"session": user, "duel": "allow"}, user=user, **fields)
        answer = self.api.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers.get("x-burnish-duel") == answer.json()["id"], answer.text
        return str(answer.json()["id"])

    def row(self, turn: str) -> Duel:
        """What the ledger knows of a duel, and no voter."""
        return Duel.model_validate_json(connect(self.redis_url).get(Keyspace(LineName("burnish")).duel(TurnId(turn))))

    def say(self, turns: tuple[str, str], verdict: str, user: str) -> str:
        said = {"kind": "comparison", "turn_ids": turns, "verdict": verdict, "user": user, "source": "simulated"}
        answer = self.api.post("/v1/feedback", json=said)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def vote(self, wanted: str, user: str) -> str:
        """A duel and the person's word on it: which side is better, or a tie. Gives the event."""
        turn = self.duel(user)
        if wanted not in ("canary", "live"):
            return self.say((turn, f"{turn}.1"), wanted, user)
        canary_first = self.row(turn).first == self.version
        return self.say((turn, f"{turn}.1"), "first" if canary_first == (wanted == "canary") else "second", user)

    def vote_until_over(self, wanted: str, most: int) -> None:
        """Votes alike by one person after another, no more once the canary has gone."""
        for given in range(most):
            if self.state() != "canary":
                return
            try:
                self.vote(wanted, f"user{given}")
            except AssertionError:
                if self.state() == "canary":
                    raise
                return


def begin(api: httpx.Client, version: str, **rules: Any) -> httpx.Response:
    return api.post(f"/operator/policies/{version}/canary", json={**WHY, "rules": QUICK | rules})


@pytest.fixture
def candidate(publisher: Publisher, two_adapters: tuple[Path, Path], gateway: Gateway) -> Version:
    return publisher.publish(two_adapters[0])


def on_trial(api: httpx.Client, gateway: Gateway, version: Version, **rules: Any) -> Trial:
    answer = begin(api, version, **rules)
    assert answer.status_code == 200, answer.text
    return Trial(api, gateway.redis_url, version)


@pytest.fixture
def trial(api: httpx.Client, gateway: Gateway, candidate: Version) -> Trial:
    return on_trial(api, gateway, candidate)


# Sides -----------------------------------------------------------------------------------------------------------
def test_a_session_has_one_side_for_as_long_as_the_canary_lasts(trial: Trial, fake: FakeEngine) -> None:
    answered: dict[str, set[str]] = {}
    for session in [f"s{i}" for i in range(24)] * 2:
        answer = trial.api.post(CHAT, json=ask(metadata={"session": session}))
        answered.setdefault(session, set()).add(answer.headers["x-burnish-policy"])
    expected = {
        session: {trial.version if on_canary_side(f"home\0session\0{session}", trial.version, 0.5) else BASE}
        for session in answered
    }
    assert answered == expected
    assert len({version for versions in answered.values() for version in versions}) == 2


def test_who_names_a_version_or_has_no_session_is_left_out(trial: Trial) -> None:
    for _ in range(8):
        assert live_now(trial.api) == BASE
        pinned = trial.api.post(CHAT, json=ask(model=f"burnish@{BASE}", metadata={"session": "s", "duel": "allow"}))
        assert pinned.headers["x-burnish-policy"] == BASE
    assert trial.standing()["decision"]["numbers"]["tripwires"]["errors"]["live"]["value"] is None


def test_promotion_and_withdrawal_move_every_session_at_once(trial: Trial) -> None:
    sessions = [f"s{i}" for i in range(12)]

    def versions() -> set[str]:
        answers = [trial.api.post(CHAT, json=ask(metadata={"session": s})) for s in sessions]
        return {answer.headers["x-burnish-policy"] for answer in answers}

    assert versions() == {BASE, trial.version}
    assert promote(trial.api, trial.version).status_code == 200
    assert versions() == {trial.version}


def test_one_canary_at_a_time_and_only_of_candidates(
    trial: Trial, publisher: Publisher, two_adapters: tuple[Path, Path]
) -> None:
    other = publisher.publish(two_adapters[1])
    assert error_of(begin(trial.api, other), 409)["code"] == "move_refused"
    assert error_of(begin(trial.api, BASE), 409)["code"] == "move_refused"
    assert trial.api.post(f"/operator/policies/{trial.version}/retire", json=WHY).status_code == 200
    assert trial.state() == "retired"
    assert begin(trial.api, other).status_code == 200
    assert error_of(promote(trial.api, trial.version), 409)["code"] == "move_refused"


@pytest.mark.parametrize("rules", [{"share": 0.9}, {"alpha": 0}, {"no_such_rule": 1}, {"least_votes": 10**9}])
def test_rules_out_of_bounds_are_refused_by_name(
    api: httpx.Client, candidate: Version, rules: dict[str, float]
) -> None:
    error = error_of(begin(api, candidate, **rules), 400)
    assert error["param"].startswith("rules")
    assert api.get(f"/operator/policies/{candidate}").json()["state"] == "candidate"


# Duels -----------------------------------------------------------------------------------------------------------
def test_a_duel_answers_with_both_versions_and_tells_neither(trial: Trial, fake: FakeEngine) -> None:
    body = ask(metadata={"session": "s", "duel": "allow"}, user="ann", seed=3)
    answer = trial.api.post(CHAT, json=body)
    told = answer.json()
    assert [choice["index"] for choice in told["choices"]] == [0, 1]
    assert {choice["message"]["content"] for choice in told["choices"]} == {"".join(WORDS)}
    assert (told["model"], told["system_fingerprint"]) == ("burnish", None)
    assert "x-burnish-policy" not in answer.headers
    assert told["usage"] == {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}
    assert not any(version in answer.text for version in (BASE, trial.version))
    assert sorted(body["model"] for body in fake.bodies[-2:]) == [BASE, trial.version]
    turns = (told["id"], f"{told['id']}.1")
    assert [trial.api.get(f"/v1/turns/{turn}").json()["model"] for turn in turns] == [None, None]
    listed = trial.api.get("/v1/turns", params={"session": "s"}).json()["data"]
    assert {turn["id"]: turn["model"] for turn in listed} == dict.fromkeys(turns)
    trial.say(turns, "tie", "ann")
    models = [trial.api.get(f"/v1/turns/{turn}").json()["model"] for turn in turns]
    assert sorted(models) == [BASE, trial.version]
    assert models[0] == trial.row(turns[0]).first


@pytest.mark.parametrize("usage", [True, False])
def test_a_duel_streams_both_answers_as_two_choices(trial: Trial, usage: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if usage else {}
    events = streamed(trial.api, ask(metadata={"session": "s", "duel": "allow"}, **more))
    assert events[-1] == "[DONE]"
    assert [text_of(events, index) for index in (0, 1)] == ["".join(WORDS)] * 2
    assert len({event["id"] for event in events[:-1]}) == 1
    assert {event["model"] for event in events[:-1]} == {"burnish"}
    usages = [event["usage"] for event in events[:-1] if not event["choices"]]
    assert usages == ([{"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}] if usage else [])
    ends = Counter(c["index"] for event in events[:-1] for c in event["choices"] if c["finish_reason"])
    assert ends == {0: 1, 1: 1}


def test_sides_are_drawn(trial: Trial) -> None:
    firsts = Counter(trial.row(trial.duel(f"user{i}")).first for i in range(24))
    assert set(firsts) == {BASE, trial.version}


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"store": False}, {"metadata": {"session": "s"}}, {"metadata": {"duel": "allow"}}]
)
def test_only_one_kept_answer_that_allows_it_and_has_a_side_is_drawn(trial: Trial, fields: dict[str, Any]) -> None:
    body = ask(**({"metadata": {"session": "s", "duel": "allow"}} | fields))
    answer = trial.api.post(CHAT, json=body)
    assert answer.status_code == 200
    assert "x-burnish-duel" not in answer.headers


def test_a_second_answer_is_no_duel(trial: Trial) -> None:
    first = trial.api.post(CHAT, json=ask(metadata={"session": "s"}, user="ann")).json()["id"]
    answer = trial.api.post(CHAT, json=ask(metadata={"session": "s", "duel": "allow", "compare_with": first}))
    assert len(answer.json()["choices"]) == 1


def test_half_a_duel_is_no_answer(trial: Trial, fake: FakeEngine) -> None:
    fake.behave(broken=trial.version)
    body = ask(metadata={"session": "s", "duel": "allow"})
    error_of(trial.api.post(CHAT, json=body), 502)
    fake.behave(broken=None, cut_after=3)
    events = events_of(trial.api.post(CHAT, json={**body, "stream": True}).text)
    assert "error" in events[-1]
    wait_until(lambda: fake.running == 0, within_s=5, what="nothing runs on in the engine")


def test_a_duel_is_wished_for_in_one_word(api: httpx.Client) -> None:
    assert error_of(api.post(CHAT, json=ask(metadata={"duel": "yes"})), 400)["param"] == "metadata.duel"


# Verdicts --------------------------------------------------------------------------------------------------------
def test_a_canary_that_people_prefer_goes_live_by_itself(trial: Trial) -> None:
    trial.vote_until_over("canary", 30)
    trial.wait_for("live")
    assert trial.api.get("/operator/policies").json()["live"] == trial.version
    entry = trial.api.get("/operator/audit").json()["audit"][0]
    assert (entry["action"], entry["actor"], entry["version"]) == ("promote", "canary", trial.version)
    assert entry["numbers"]["votes"]["lower"] >= 0.5
    assert entry["numbers"]["votes"]["wins"] == entry["numbers"]["votes"]["decisive"] >= 3
    assert trial.standing() == {"canary": None}


def test_a_canary_that_people_like_less_is_withdrawn_and_stays_so(trial: Trial) -> None:
    trial.vote_until_over("live", 30)
    trial.wait_for("withdrawn")
    assert trial.api.get("/operator/policies").json()["live"] == BASE
    assert error_of(begin(trial.api, trial.version), 409)["code"] == "move_refused"
    assert error_of(promote(trial.api, trial.version), 409)["code"] == "move_refused"
    answer = trial.api.post(CHAT, json=ask(metadata={"session": "s", "duel": "allow"}))
    assert answer.headers["x-burnish-policy"] == BASE


def test_a_canary_without_a_winner_is_put_away(api: httpx.Client, gateway: Gateway, candidate: Version) -> None:
    trial = on_trial(api, gateway, candidate, most_votes=4)
    for i in range(4):
        trial.vote("tie" if i % 2 else "both_bad", f"user{i}")
    trial.wait_for("retired")
    entry = api.get("/operator/audit").json()["audit"][0]
    assert entry["numbers"]["votes"]["ties"] == entry["numbers"]["votes"]["both_bad"] == 2
    assert "no winner after 4 votes" in entry["reason"]


def test_a_canary_given_up_may_be_held_for_an_operator(api: httpx.Client, gateway: Gateway, candidate: Version) -> None:
    trial = on_trial(api, gateway, candidate, most_votes=3, when_inconclusive="hold")
    for i in range(3):
        trial.vote("tie", f"user{i}")
    wait_until(lambda: trial.standing()["decision"]["kind"] == "inconclusive", within_s=5, what="it is given up")
    assert trial.state() == "canary"
    assert promote(api, trial.version).status_code == 200


def test_only_the_first_word_on_a_duel_counts(trial: Trial) -> None:
    event = trial.vote("canary", "ann")
    assert trial.votes()["wins"] == 1
    turn = trial.api.get("/v1/turns", params={"user": "ann"}).json()["data"][0]["id"].partition(".")[0]
    trial.say((turn, f"{turn}.1"), "tie", "ann")
    trial.api.post("/v1/feedback", json={"kind": "retract", "event_id": event, "user": "ann"})
    votes = trial.votes()
    assert (votes["wins"], votes["losses"], votes["ties"]) == (1, 0, 0)


def test_regenerations_and_judges_decide_nothing(trial: Trial) -> None:
    first = trial.api.post(CHAT, json=ask(metadata={"session": "s"}, user="ann")).json()["id"]
    again = trial.api.post(CHAT, json=ask(metadata={"session": "s", "compare_with": first}, user="ann")).json()["id"]
    trial.say((first, again), "second", "ann")
    turn = trial.duel("bob")
    said = {"kind": "comparison", "turn_ids": (turn, f"{turn}.1"), "verdict": "first", "source": "judge", "user": "bob"}
    assert trial.api.post("/v1/feedback", json=said).status_code == 201
    assert (trial.votes()["decisive"], trial.votes()["ties"]) == (0, 0)


@pytest.mark.parametrize(("fault", "words"), [("broken", "errors"), ("silent", "empty")])
def test_a_canary_that_fails_its_users_is_withdrawn_without_a_vote(
    fault: str, words: str, trial: Trial, fake: FakeEngine
) -> None:
    fake.behave(**{fault: trial.version})
    for i in range(120):
        trial.api.post(CHAT, json=ask(metadata={"session": f"s{i}"}))
        if trial.state() != "canary":
            break
    trial.wait_for("withdrawn")
    entry = trial.api.get("/operator/audit").json()["audit"][0]
    assert (entry["action"], entry["actor"]) == ("withdraw", "canary")
    assert words in entry["reason"]
    assert entry["numbers"]["tripwires"][words]["canary"]["lower"] > 0.05


def test_the_side_of_a_duel_that_fails_is_blamed_for_it_alone(
    api: httpx.Client, gateway: Gateway, candidate: Version, fake: FakeEngine
) -> None:
    trial = on_trial(api, gateway, candidate, least_requests=1000)
    fake.behave(broken=trial.version)
    for i in range(4):
        body = ask(metadata={"session": f"s{i}", "duel": "allow"})
        assert trial.api.post(CHAT, json=body).status_code == 502

    def errors() -> tuple[Any, Any]:
        wire = trial.standing()["decision"]["numbers"]["tripwires"]["errors"]
        return wire["canary"]["value"], wire["live"]["value"]

    # The live version's answers were whole, or were ended with the other's.
    wait_until(lambda: errors() in ((1.0, 0.0), (1.0, None)), within_s=5, what=lambda: f"not live's; now {errors()}")


def test_a_canary_ends_when_what_it_is_compared_with_is_no_longer_live(
    trial: Trial, publisher: Publisher, two_adapters: tuple[Path, Path]
) -> None:
    other = go_live(trial.api, publisher, two_adapters[1])
    trial.wait_for("retired")
    assert trial.api.get("/operator/policies").json()["live"] == other
    assert trial.api.get("/operator/audit").json()["audit"][0]["numbers"]["votes"]["decisive"] == 0


@pytest.mark.parametrize("move", ["promote", "retire", "withdraw"])
def test_what_an_operator_ends_keeps_its_numbers_in_the_audit_trail(trial: Trial, move: str) -> None:
    trial.vote("canary", "ann")
    trial.vote("tie", "ben")
    assert trial.api.post(f"/operator/policies/{trial.version}/{move}", json=WHY).status_code == 200
    entry = trial.api.get("/operator/audit").json()["audit"][0]
    assert (entry["action"], entry["version"], entry["reason"]) == (move, trial.version, WHY["reason"])
    assert entry["actor"] != "canary"
    votes = entry["numbers"]["votes"]
    assert (votes["wins"], votes["losses"], votes["ties"]) == (1, 0, 1)
    assert entry["numbers"]["rules"]["duel_share"] == 1.0
