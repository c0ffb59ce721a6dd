"""Acts on a desk against the real gateway and ledger, on a fake engine where a failure must be made."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.fake_engine import Behaviour, FakeEngine, fake_engine
from tests.services import Gateway, start_gateway, start_redis, wait_until
from ui.app import given
from ui.chat import asking, voting
from ui.chat.acts import act
from ui.chat.compare import Choice
from ui.chat.conversations import STOPPED
from ui.chat.desk import Desk, Given
from ui.chat.kept import read_kept
from ui.errors import GatewayAway, GatewayRefused
from ui.gateway import ChatGateway, OperatorGateway, Wire
from ui.settings import Settings

SAMPLING = {"max_tokens": 10, "temperature": 0.8, "top_p": 0.95}


@pytest.fixture(scope="module")
def shared_fake() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, shared_fake: FakeEngine, model_dir: Path) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("desk")
    with (
        start_redis(folder / "redis") as redis_url,
        start_gateway(folder / "home", redis_url, shared_fake.url, model=model_dir) as running,
    ):
        yield running


@pytest.fixture
def fake(shared_fake: FakeEngine) -> Iterator[FakeEngine]:
    """The engine of the shared gateway, behaving well again after the test."""
    yield shared_fake
    shared_fake.behaviour = Behaviour()


@pytest.fixture
async def wire(gateway: Gateway) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession() as http:
        yield Wire(http, gateway.url)


@pytest.fixture
def desk(wire: Wire, gateway: Gateway) -> Desk:
    return Desk(
        Given(ChatGateway(wire, gateway.key("page")), "burnish", SAMPLING, draw=lambda: True),
        f"visitor-{uuid.uuid4().hex}",
    )


async def do(steps: asking.Steps) -> int:
    """Run an act to its end; how often it drew."""
    return len([None async for _ in steps])


async def test_an_answer_comes_in_pieces_and_stays(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.1)
    assert await do(asking.send(desk, "Hi")) > 4
    assert desk.path.messages[0].text == "Hi"
    again = Desk(desk.given, desk.visitor)
    await again.restore(desk.remembered())
    assert again.path.messages == desk.path.messages
    assert again.session == desk.session


async def test_another_person_sees_none_of_it(desk: Desk) -> None:
    await do(asking.send(desk, "Hi"))
    other = Desk(desk.given, "visitor-2")
    await other.restore(desk.remembered())
    assert not other.turns
    assert await act(other, {"act": "open", "session": desk.session}) == ""
    assert not other.path.steps


async def test_the_same_answer_twice_is_not_asked_about(desk: Desk) -> None:
    await do(asking.send(desk, "Hi"))
    first = desk.path.tip
    await do(asking.regenerate(desk))
    assert desk.comparing is None
    assert desk.path.tip == first
    assert desk.notice is not None
    assert "word for word the same" in desk.notice.text


async def test_a_stopped_answer_is_kept_as_far_as_it_came(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.2)
    async for _ in asking.send(desk, "Hi"):
        if desk.writing is not None and desk.writing.text:
            asking.stop(desk)
    tip = desk.path.tip
    assert tip is not None
    assert tip.finish_reason == STOPPED
    assert 0 < len(tip.answer) < 40


async def test_an_answer_that_ended_before_the_stop_reached_it_is_whole(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.1)
    async for _ in asking.send(desk, "Hi"):
        writing = desk.writing
        if writing is not None and writing.text:
            read = partial(getattr, writing.first, "finish_reason")
            await asyncio.to_thread(wait_until, read, within_s=10, what="the answer has ended")
            asking.stop(desk)
    assert desk.path.tip is not None
    assert desk.path.tip.finish_reason == "length"


async def test_an_answer_stopped_before_its_first_word_is_not_sent_yet(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.5)

    async def stop_once_begun() -> None:
        begun = partial(getattr, desk.writing and desk.writing.first, "turn_id")
        await asyncio.to_thread(wait_until, begun, within_s=10, what="the answer has a turn")
        asking.stop(desk)

    steps = asking.send(desk, "Hi")
    await anext(steps)
    await asyncio.gather(do(steps), stop_once_begun())
    assert desk.path.tip is None
    assert [message.text for message in desk.unsent] == ["Hi"]


async def test_a_stopped_answer_is_asked_for_again_without_a_comparison(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.1)
    async for _ in asking.send(desk, "Hi"):
        if desk.writing is not None and desk.writing.text:
            asking.stop(desk)
    fake.behave(delay_s=0)
    await do(asking.regenerate(desk))
    assert desk.comparing is None
    assert desk.path.tip is not None
    assert desk.path.tip.compare_with is None
    assert desk.path.tip.finish_reason != STOPPED


async def test_a_stopped_second_answer_is_put_away(desk: Desk, fake: FakeEngine) -> None:
    await do(asking.send(desk, "Hi"))
    first = desk.path.tip
    fake.behave(delay_s=0.2)
    async for _ in asking.regenerate(desk):
        if desk.writing is not None and desk.writing.text:
            asking.stop(desk)
    assert desk.path.tip == first
    again = Desk(desk.given, desk.visitor)
    await again.restore(desk.remembered())
    assert again.path.tip is not None
    assert first is not None
    assert again.path.tip.id == first.id


@pytest.mark.parametrize("failure", [{"error_after": 3}, {"cut_after": 3}, {"away": True}])
async def test_a_failed_message_is_not_lost_and_can_be_asked_again(
    desk: Desk, fake: FakeEngine, failure: dict[str, object]
) -> None:
    fake.behave(**failure)
    await do(asking.send(desk, "A long question"))
    assert [message.text for message in desk.unsent] == ["A long question"]
    assert desk.notice is not None
    assert desk.notice.bad
    assert desk.remembered().draft == "A long question"
    fake.behave(error_after=None, cut_after=None, away=False)
    await do(asking.send(desk, "and more"))
    while desk.unsent:  # until the gateway has seen that the engine is back
        await asyncio.sleep(0.2)
        await do(asking.resend(desk))
    assert desk.path.messages[0].text == "A long question\n\nand more"
    assert not desk.unsent


async def test_one_answer_at_a_time(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.1)
    async for _ in asking.send(desk, "Hi"):
        if desk.writing is not None:
            assert await do(asking.send(desk, "Me too")) == 0
    assert desk.path.messages[0].text == "Hi"


async def test_going_elsewhere_stops_the_answer_and_leaves_it_where_it_belongs(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.2)
    first = desk.session
    async for _ in asking.send(desk, "Hi"):
        if desk.writing is not None and desk.writing.text:
            desk.new()
    assert desk.session != first
    assert not desk.path.steps
    await desk.open(first)
    assert desk.path.messages[0].text == "Hi"


async def test_the_page_cannot_name_what_is_not_on_its_screen(desk: Desk) -> None:
    await do(asking.send(desk, "Hi"))
    for said in (
        {"act": "up", "at": "7"},
        {"act": "up", "at": "-1"},
        {"act": "up", "at": desk.path.steps[1].turn and desk.path.steps[1].turn.id},
        {"act": "vote", "choice": "left"},
        {"act": "take_back"},
        {"act": "nonsense"},
        {},
    ):
        await act(desk, dict(said))
    assert not desk.standing.ratings
    assert not desk.standing.comparisons


async def test_a_thumb_pressed_again_is_taken_back(desk: Desk) -> None:
    await do(asking.send(desk, "Hi"))
    await voting.rate(desk, 1, "down")
    await voting.explain(desk, 1, ["too_long", "made up"], " Too many words ")
    tip = desk.path.tip
    assert tip is not None
    rating = desk.standing.rating(tip.id)
    assert rating is not None
    assert (rating.reasons, rating.comment) == (("too_long",), "Too many words")
    await voting.rate(desk, 1, "down")
    assert desk.standing.rating(tip.id) is None


async def test_what_was_taken_back_stays_so_after_a_reload(desk: Desk) -> None:
    await do(asking.send(desk, "Hi"))
    await voting.rate(desk, 1, "up")
    await voting.rate(desk, 1, "up")
    again = Desk(desk.given, desk.visitor)
    await again.restore(desk.remembered())
    assert not again.standing.ratings


async def test_a_correction_goes_on_in_place_of_the_answer(desk: Desk, fake: FakeEngine) -> None:
    await do(asking.send(desk, "Hi"))
    await voting.correct(desk, 1, "Hello, friend.")
    await do(asking.send(desk, "And then?"))
    sent = [message["content"] for message in fake.bodies[-1]["messages"]]
    assert sent == ["Hi", "Hello, friend.", "And then?"]
    assert desk.path.steps[1].suggested == "Hello, friend."


async def test_without_the_ledger_a_vote_changes_nothing_on_screen(desk: Desk, wire: Wire) -> None:
    await do(asking.send(desk, "Hi"))
    away = Given(ChatGateway(Wire(wire._http, "http://127.0.0.1:1"), "none"), "burnish", SAMPLING, draw=lambda: True)
    desk.given = away
    with pytest.raises(GatewayAway):
        await voting.rate(desk, 1, "up")
    assert not desk.standing.ratings
    assert desk.panel is None
    await voting.vote(desk, Choice.left)


async def test_a_reload_in_the_middle_of_an_answer_shows_the_question_once(desk: Desk, fake: FakeEngine) -> None:
    fake.behave(delay_s=0.1)
    kept = desk.remembered()
    async for _ in asking.send(desk, "Hi"):
        if desk.writing is not None and desk.writing.text:
            kept = desk.remembered()
            asking.stop(desk)
    assert kept.draft == "Hi"
    again = Desk(desk.given, desk.visitor)
    while not again.turns:  # until the ledger has what was stopped
        await asyncio.sleep(0.05)
        await again.restore(kept)
    assert [message.role for message in again.on_screen()] == ["user", "assistant"]
    assert again.remembered().draft == ""


async def test_the_same_words_said_once_more_still_wait_for_their_answer_after_a_reload(
    desk: Desk, fake: FakeEngine
) -> None:
    await do(asking.send(desk, "Go on"))
    fake.behave(error_after=1)
    await do(asking.send(desk, "Go on"))
    again = Desk(desk.given, desk.visitor)
    await again.restore(read_kept(desk.remembered().as_json()))
    assert again.on_screen() == desk.on_screen()
    assert [message.role for message in again.on_screen()] == ["user", "assistant", "user"]


async def test_a_changed_message_without_an_answer_stands_in_its_own_place_after_a_reload(
    desk: Desk, fake: FakeEngine
) -> None:
    await do(asking.send(desk, "What is a cat?"))
    fake.behave(error_after=1)
    await do(asking.change_message(desk, 0, "What is a dog?"))
    again = Desk(desk.given, desk.visitor)
    await again.restore(desk.remembered())
    assert [message.text for message in again.on_screen()] == ["What is a dog?"]


async def test_a_page_of_a_line_with_another_name_asks_for_that_lines_model(
    tmp_path: Path, shared_fake: FakeEngine, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_LINE_NAME", "polish")
    with (
        start_redis(tmp_path / "redis") as redis_url,
        start_gateway(tmp_path / "home", redis_url, shared_fake.url, model=model_dir) as gateway,
    ):
        async with aiohttp.ClientSession() as http:
            chat = ChatGateway(Wire(http, gateway.url), gateway.key("page"))
            desk = Desk(given(Settings.read(), chat, draw=lambda: True), "visitor-1")
            await do(asking.send(desk, "Hi"))
            assert desk.notice is None
            assert desk.path.tip is not None
            assert desk.path.tip.version.startswith("polish@")
            stray = Desk(replace(desk.given, model="burnish"), "visitor-1")
            await do(asking.send(stray, "Hi"))
            assert stray.notice is not None
            assert "a model that is not served here" in stray.notice.text


async def test_a_desk_that_could_not_be_restored_is_restored_later(desk: Desk, wire: Wire) -> None:
    await do(asking.send(desk, "Hi"))
    kept = replace(desk.remembered(), draft="Not sent yet", place=2)
    away = Given(ChatGateway(Wire(wire._http, "http://127.0.0.1:1"), "none"), "burnish", SAMPLING, draw=lambda: True)
    again = Desk(away, desk.visitor)
    with pytest.raises(GatewayAway):
        await again.restore(kept)
    assert again.session == desk.session
    again.given = desk.given
    await again.restore(kept)
    assert again.path.messages == desk.path.messages
    assert again.unsent[-1].text == "Not sent yet"


async def test_the_pages_key_can_chat_and_vote_and_nothing_else(wire: Wire, gateway: Gateway) -> None:
    operator = OperatorGateway(wire)
    page_key = gateway.key("page")
    for call in (
        operator.policies(page_key),
        operator.jobs(page_key),
        operator.audit(page_key),
        operator.train(page_key, "why"),
        operator.rollback(page_key, "why"),
    ):
        with pytest.raises(GatewayRefused) as refused:
            await call
        assert refused.value.status == 403
