"""Blind duels on a desk: both answers written at once, the vote, and all that may come between."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from feedback.connection import connect
from feedback.events import Comparison, Verdict
from feedback.ids import BASE_VERSION, LineName, TurnId
from feedback.ledger import Ledger
from tests.adapters import make_adapter
from tests.fake_engine import FakeEngine, fake_engine
from tests.services import start_gateway, start_redis, wait_until
from tests.ui.test_desk import SAMPLING, do
from tests.ui.trial import BASES, CANARYS, WORDS, Trial, begin_trial, say
from ui.chat import asking, voting
from ui.chat.acts import act
from ui.chat.compare import Choice
from ui.chat.conversations import STOPPED
from ui.chat.desk import Desk, Given
from ui.chat.view import live_html, talk_html
from ui.gateway import ChatGateway, Wire


@pytest.fixture(scope="module")
def shared_fake() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        yield running


@pytest.fixture(scope="module")
def shared_trial(tmp_path_factory: pytest.TempPathFactory, shared_fake: FakeEngine, model_dir: Path) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("duels")
    made = make_adapter(folder / "made", model_dir, seed=1, scale=0.1)
    with (
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, shared_fake.url, model=model_dir) as gateway,
    ):
        yield begin_trial(gateway, shared_fake, model_dir, made)


@pytest.fixture
def trial(shared_trial: Trial, shared_fake: FakeEngine) -> Trial:
    shared_fake.behave(delay_s=0, away=False, cut_after=None)
    say(shared_fake, shared_trial.version)
    return shared_trial


@pytest.fixture
def fake(shared_fake: FakeEngine, trial: Trial) -> FakeEngine:
    return shared_fake


@pytest.fixture
async def desk(trial: Trial) -> AsyncIterator[Desk]:
    """A page that would draw the sides: the older one right."""
    async with aiohttp.ClientSession() as http:
        gateway = ChatGateway(Wire(http, trial.gateway.url), trial.gateway.key("page"))
        yield Desk(Given(gateway, "burnish", SAMPLING, draw=lambda: False), f"visitor-{uuid.uuid4().hex}")


async def reloaded(desk: Desk) -> Desk:
    again = Desk(desk.given, desk.visitor)
    await again.restore(desk.remembered())
    return again


def sides(desk: Desk) -> tuple[str, str]:
    assert desk.comparing is not None
    return desk.comparing.showing.left.answer, desk.comparing.showing.right.answer


async def test_a_question_is_answered_twice_side_by_side_and_blind(desk: Desk, fake: FakeEngine, trial: Trial) -> None:
    fake.behave(delay_s=0.1)
    seen = [live_html(desk) async for _ in asking.send(desk, "What is tea?")]
    both = [html for html in seen if 'class="compare writing"' in html]
    assert len(both) > 3
    assert any(html.count("Tea is") == 2 for html in both), "the answers do not grow at the same time"
    assert not any("data-choice" in html for html in both), "a vote is asked for before both are whole"
    assert "data-choice" in seen[-1]
    assert not any(trial.version.partition("-")[0] in html or "chatcmpl" in html for html in seen)
    assert set(sides(desk)) == set(WORDS.values())
    assert [message.text for message in desk.path.messages] == ["What is tea?"]


async def test_both_stay_on_their_sides_from_the_first_word_on(desk: Desk, fake: FakeEngine, trial: Trial) -> None:
    fake.behave(delay_s=0.1)
    for question in ("What is tea?", "And then?"):
        order: list[str] = []
        async for _ in asking.send(desk, question):
            if desk.writing is not None and desk.writing.is_duel:
                order = [draft.text for draft in desk.writing.drafts]
        assert all(whole.startswith(part) for whole, part in zip(sides(desk), order, strict=True))
        pair = desk.path.pair
        assert pair is not None
        first = "canary" if trial.duel(pair[0].id).first == trial.version else "base"
        assert sides(desk)[0] == WORDS[first]
        assert sides(await reloaded(desk)) == sides(desk)


@pytest.mark.parametrize(
    ("choice", "goes_on", "verdict"),
    [("left", 0, "first"), ("right", 1, "second"), ("tie", 0, "tie"), ("both_bad", 1, "both_bad")],
)
async def test_a_vote_counts_for_the_canary_and_says_how_it_was_shown(
    desk: Desk, trial: Trial, choice: str, goes_on: int, verdict: str
) -> None:
    before = trial.votes()
    await do(asking.send(desk, "What is tea?"))
    answers, pair = sides(desk), desk.path.pair
    assert pair is not None
    assert not any(turn.version for turn in pair)
    await act(desk, {"act": "vote", "choice": choice})
    assert desk.path.tip is not None
    assert desk.path.tip.answer == answers[goes_on]
    assert desk.notice is not None
    assert f"It is by {desk.path.tip.version.partition('-')[0]}, the other by" in desk.notice.text
    ledger = Ledger(connect(trial.gateway.redis_url), LineName("burnish"))
    (event,) = [e for e in ledger.standing_events() if pair[0].id in getattr(e.said, "turn_ids", ())]
    assert isinstance(event.said, Comparison)
    assert event.said.turn_ids == (pair[0].id, pair[1].id)
    assert event.said.verdict is Verdict(verdict)
    assert event.said.shown is not None
    assert (event.said.shown.mode, event.said.shown.left) == ("at_once", pair[0].id)
    first = trial.duel(TurnId(pair[0].id)).first
    won = {"first": first == trial.version, "second": first == BASE_VERSION}
    name = {True: "wins", False: "losses"}[won[verdict]] if verdict in won else {"tie": "ties"}.get(verdict, verdict)
    after = trial.votes()
    assert {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)} == {name: 1}


async def test_the_versions_are_told_after_the_vote_and_not_before(desk: Desk, trial: Trial) -> None:
    await do(asking.send(desk, "What is tea?"))
    assert [turn.version for turn in (await reloaded(desk)).turns] == ["", ""]
    await voting.vote(desk, Choice.tie)
    assert desk.notice is not None
    number, first = (version.partition("-")[0] for version in (trial.version, desk.turns[0].version))
    other = "v0000" if first == number else number
    assert desk.notice.text == f"Thank you. The first answer goes on. It is by {first}, the other by {other}."
    assert {turn.version for turn in desk.turns} == {BASE_VERSION, trial.version}
    assert number not in talk_html(desk), "on screen the sentence alone tells"


async def test_without_a_word_on_who_wrote_them_the_vote_stands_all_the_same(
    desk: Desk, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(asking.send(desk, "What is tea?"))
    wire = desk.given.gateway._wire
    call = wire.call

    async def broken(key: str, method: str, path: str, **request: object) -> object:
        return await call(key, method, "/v1/nowhere" if path.startswith("/v1/turns/") else path, **request)

    monkeypatch.setattr(wire, "call", broken)
    await voting.vote(desk, Choice.both_bad)
    assert desk.notice is not None
    assert desk.notice.text == "Thank you. The second answer goes on."
    assert desk.path.tip is not None


async def test_a_vote_taken_back_opens_the_pair_again(desk: Desk) -> None:
    await do(asking.send(desk, "What is tea?"))
    before = sides(desk)
    await voting.vote(desk, Choice.right)
    await act(desk, {"act": "take_back"})
    assert sides(desk) == before
    assert sides(await reloaded(desk)) == before


async def test_sending_on_without_a_vote_leaves_no_verdict_and_the_first_goes_on(desk: Desk, trial: Trial) -> None:
    before = trial.votes()
    await do(asking.send(desk, "What is tea?"))
    first = sides(desk)[0]
    await do(asking.send(desk, "And then?"))
    assert [message.text for message in desk.path.messages] == ["What is tea?", first, "And then?"]
    await act(desk, {"act": "skip"})
    again = await reloaded(desk)
    assert again.path.messages == desk.path.messages
    assert len(again.path.messages) == 4
    assert trial.votes() == before


async def test_a_stopped_duel_is_none(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.15)
    async for _ in asking.send(desk, "What is tea?"):
        if desk.writing is not None and all(draft.text for draft in desk.writing.drafts):
            asking.stop(desk)
    assert desk.comparing is None
    tip = desk.path.tip
    assert tip is not None
    assert tip.finish_reason == STOPPED
    assert "." not in tip.id
    assert tip.answer.startswith("Tea")
    assert f"{tip.id}.1" in desk.kept.undone, "what the ledger has of it by now may be whole"
    assert desk.notice is not None
    assert "nothing to compare" in desk.notice.text
    fake.behave(delay_s=0)
    await do(asking.regenerate(desk))
    assert desk.comparing is None, "a stopped answer is replaced"
    assert desk.path.tip is not None
    assert not desk.path.tip.duel, "a regeneration became a duel"


async def test_of_a_duel_stopped_before_the_first_answer_began_the_second_stays(
    desk: Desk, fake: FakeEngine, trial: Trial
) -> None:
    say(fake, trial.version, base=["", *CANARYS], canary=["", *CANARYS])
    fake.behave(delay_s=0.15)
    async for _ in asking.send(desk, "What is tea?"):
        if desk.writing is not None and desk.writing.is_duel and desk.writing.text:
            desk.writing.first.text = ""
            asking.stop(desk)
    assert desk.path.tip is not None
    assert desk.path.tip.id.endswith(".1")
    assert desk.path.tip.answer


async def test_what_the_ledger_holds_of_a_stopped_duel_is_not_asked_about_later(
    desk: Desk, fake: FakeEngine, trial: Trial
) -> None:
    """Another browser, which does not remember that it was stopped."""
    fake.behave(delay_s=0.15)
    async for _ in asking.send(desk, "What is tea?"):
        if desk.writing is not None and all(draft.text for draft in desk.writing.drafts):
            asking.stop(desk)
    other = Desk(desk.given, desk.visitor)
    while len(other.turns) < 2:
        await other.restore(type(desk.kept)())
    assert other.comparing is None
    assert other.path.tip is not None
    assert "." not in other.path.tip.id


async def test_a_duel_that_fails_is_a_message_not_answered(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(cut_after=3)
    await do(asking.send(desk, "What is tea?"))
    assert [message.text for message in desk.unsent] == ["What is tea?"]
    assert desk.notice is not None
    assert desk.notice.bad
    fake.behave(cut_after=None)
    while desk.unsent:  # until the gateway has seen that the engine is back
        await do(asking.resend(desk))
    assert desk.comparing is not None


async def test_two_answers_alike_are_not_asked_about(desk: Desk, fake: FakeEngine, trial: Trial) -> None:
    say(fake, trial.version, BASES, BASES)
    await do(asking.send(desk, "What is tea?"))
    assert desk.comparing is None
    assert desk.path.tip is not None
    assert "." not in desk.path.tip.id
    assert desk.notice is not None
    assert "word for word the same" in desk.notice.text
    assert (await reloaded(desk)).comparing is None


async def test_a_second_answer_to_one_that_won_a_duel_is_compared_as_ever(desk: Desk, fake: FakeEngine) -> None:
    await do(asking.send(desk, "What is tea?"))
    await voting.vote(desk, Choice.right)
    won = desk.path.tip
    fake.behave(words={})
    await do(asking.regenerate(desk))
    assert desk.comparing is not None
    assert desk.comparing.showing.older == won
    assert not desk.comparing.showing.is_duel
    assert desk.comparing.showing.right == won, "the page draws the sides of these"


async def test_a_message_said_anew_or_again_may_be_a_duel_too(desk: Desk) -> None:
    await do(asking.send(desk, "What is tea?"))
    await do(asking.change_message(desk, 0, "What is coffee?"))
    assert desk.comparing is not None
    assert desk.path.messages[0].text == "What is coffee?"
    assert await act(desk, {"act": "undo"}) == "What is coffee?"
    assert desk.comparing is not None
    assert desk.path.messages[0].text == "What is tea?"
    assert await act(desk, {"act": "undo"}) == "What is tea?"
    assert not desk.path.steps


async def test_going_elsewhere_leaves_the_pair_where_it_belongs(desk: Desk, fake: FakeEngine) -> None:
    await do(asking.send(desk, "What is tea?"))
    pair, session = sides(desk), desk.session
    desk.new()
    assert desk.comparing is None
    fake.behave(delay_s=0.15)
    async for _ in asking.send(desk, "Another thing"):
        if desk.writing is not None and desk.writing.text:
            await desk.open(session)
    assert sides(desk) == pair
    wait_until(lambda: fake.running == 0, within_s=5, what="both are ended at the engine")
