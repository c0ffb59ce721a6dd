"""The chat page in a real browser, on the real gateway, engine and ledger."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feedback.events import Comparison, Edit, Event, Rating, Verdict
from serve.access.key_files import HOME_TENANT
from tests.services import Engine, wait_until
from tests.ui.system import SIDES, System, start_system

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ANSWER_MS = 60_000
ANSWERS = "#talk .answer .prose"
STOP_AT_FIRST_SIGHT = """() => new MutationObserver(() => {
  if (document.querySelector("#live .writing")) document.querySelector("#stop")?.click();
}).observe(document.body, { childList: true, subtree: true })"""


def open_page(page: "Page", system: System) -> None:
    page.goto(system.url)
    page.wait_for_selector("#box textarea")
    page.wait_for_selector(".welcome, .talk")


def finished(page: "Page") -> None:
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')", timeout=ANSWER_MS)


def ask(page: "Page", text: str) -> str:
    """Send a message and wait for its answer; the last answer's text."""
    page.fill("#box textarea", text)
    page.press("#box textarea", "Enter")
    page.wait_for_selector(f"#talk .bubble:has-text('{text}')")
    page.wait_for_function(
        "(text) => [...document.querySelectorAll('#talk .message')].at(-1)?.classList.contains('answer')"
        " && [...document.querySelectorAll('#talk .bubble')].at(-1)?.innerText === text",
        arg=text,
        timeout=ANSWER_MS,
    )
    finished(page)
    return page.locator(ANSWERS).last.inner_text()


def said(system: System, text: str) -> Sequence[Event]:
    """What stands in the ledger about turns that answered a message."""
    turns = {turn.id for turn in system.ledger.turns_of(HOME_TENANT) if turn.messages[-1]["content"] == text}
    events = system.ledger.standing_events()
    return [e for e in events if turns & {getattr(e.said, "turn_id", ""), *getattr(e.said, "turn_ids", ())}]


def test_an_answer_streams_and_is_there_again_after_a_reload(page: "Page", system: System) -> None:
    hosts: set[str] = set()
    troubles: list[str] = []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("response", lambda answer: troubles.append(answer.url) if answer.status >= 400 else None)
    open_page(page, system)
    page.fill("#box textarea", "Tell me about the sea.")
    page.press("#box textarea", "Enter")
    page.wait_for_selector("#live .writing")
    lengths = []
    while page.locator("#live .writing").count():
        lengths.append(page.evaluate("document.querySelector('#live .writing')?.innerText.length ?? 0"))
        page.wait_for_timeout(60)
    assert len(set(lengths)) > 3, "the answer did not come piece by piece"
    finished(page)
    before = page.locator(ANSWERS).last.inner_text()
    assert len(before) > 20
    page.reload()
    page.wait_for_selector(ANSWERS)
    assert page.locator(ANSWERS).all_inner_texts() == [before]
    assert page.locator("#list .row").inner_text() == "Tell me about the sea."
    assert hosts == {system.url.removeprefix("http://")}
    assert not troubles


@pytest.mark.parametrize("pair", range(2))
def test_a_vote_on_a_side_reaches_the_ledger_as_a_verdict_on_older_and_newer(
    page: "Page", system: System, pair: int
) -> None:
    question = f"Why is the sky blue, in words for child {pair}?"
    open_page(page, system)
    older = ask(page, question)
    page.keyboard.press("Escape")
    page.locator("[data-slow=regenerate]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".compare", timeout=ANSWER_MS)
    sides = {side: page.locator(f".side[data-side={side}] .prose").inner_text() for side in ("left", "right")}
    older_left = SIDES[pair] == "L"
    assert (sides["left"] == older) is older_left
    assert not re.search(r"v\d{4}|chatcmpl", page.locator(".compare").inner_html()), "the pair is not blind"
    assert page.locator(".choice").count() == 4
    page.keyboard.press("1")
    page.wait_for_selector(".notice.good")
    (event,) = said(system, question)
    assert isinstance(event.said, Comparison)
    assert event.said.verdict is (Verdict.first if older_left else Verdict.second)
    left = system.ledger.turns(event.said.turn_ids)[event.said.shown.left]
    assert " ".join(left.answer.split())[:20] == " ".join(sides["left"].split())[:20]
    assert left.compare_with == (None if older_left else event.said.turn_ids[0])
    assert event.said.shown.mode == "regenerate"
    assert event.said.shown.ms > 0
    assert page.locator(ANSWERS).last.inner_text() == sides["left"]
    page.reload()
    page.wait_for_selector(ANSWERS)
    assert page.locator(ANSWERS).all_inner_texts() == [sides["left"]]


def test_a_vote_can_be_taken_back_and_said_anew(page: "Page", system: System) -> None:
    open_page(page, system)
    ask(page, "Tell me a story about a river.")
    page.click("[data-slow=regenerate]")
    page.wait_for_selector(".compare", timeout=ANSWER_MS)
    page.click("[data-choice=both_bad]")
    page.click("[data-act=take_back]")
    page.wait_for_selector(".compare")
    assert not said(system, "Tell me a story about a river.")
    page.click("[data-choice=tie]")
    page.wait_for_selector(".notice.good:has-text('earlier answer goes on')")  # the one before said: taken back
    (event,) = said(system, "Tell me a story about a river.")
    assert event.said.verdict is Verdict.tie


@pytest.fixture
def talkative(engine: Engine, tmp_path: Path) -> Iterator[System]:
    """Its answers are long enough to be stopped on any machine."""
    with start_system(tmp_path, engine, BURNISH_UI_MAX_TOKENS="1500", BURNISH_UI_TEMPERATURE="1") as running:
        yield running


def test_stop_ends_the_answer_where_it_is(page: "Page", talkative: System) -> None:
    open_page(page, talkative)
    page.evaluate(STOP_AT_FIRST_SIGHT)
    page.fill("#box textarea", "Write a very long story about a fisherman, his three daughters and the sea.")
    page.press("#box textarea", "Enter")
    page.wait_for_selector("#talk .answer", timeout=ANSWER_MS)
    page.wait_for_selector("#send")
    assert "Stopped before its end." in page.locator("#talk .answer").last.inner_text()
    wait_until(
        lambda: any(
            turn.messages[-1]["content"].startswith("Write a very long story") and turn.finish_reason is None
            for turn in talkative.ledger.turns_of(HOME_TENANT)
        ),
        within_s=10,
        what="the stopped turn is in the ledger, without a finish reason",
    )


def test_a_sent_message_can_be_changed_and_undone(page: "Page", system: System) -> None:
    open_page(page, system)
    ask(page, "What is a cat?")
    page.hover("#talk .asked")
    page.click("#talk .asked [data-act=edit_message]")
    page.fill("form[data-slow=change_message] textarea", "What is a dog?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#talk .bubble:has-text('What is a dog?')")
    finished(page)
    assert page.locator("#talk .bubble").all_inner_texts() == ["What is a dog?"]
    page.click("[data-act=undo]")
    page.wait_for_selector("#talk .bubble:has-text('What is a cat?')")
    assert page.input_value("#box textarea") == "What is a dog?"


def test_a_thumb_with_reasons_and_a_comment(page: "Page", system: System) -> None:
    open_page(page, system)
    ask(page, "What is salt?")
    page.click("[data-act=down]")
    page.check("input[value=too_long]", force=True)
    page.check("input[value=incorrect]", force=True)
    page.fill("#comment", "It is not a metal.")
    page.click(".panel button[type=submit]")
    page.wait_for_selector(".notice:has-text('reasons are noted')")
    (event,) = said(system, "What is salt?")
    assert isinstance(event.said, Rating)
    assert event.said.value == "down"
    assert event.said.reasons == ("incorrect", "too_long")
    assert event.said.comment == "It is not a metal."
    page.reload()
    page.wait_for_selector("[data-act=down][aria-pressed=true]")


def test_what_an_answer_should_have_said(page: "Page", system: System) -> None:
    open_page(page, system)
    ask(page, "Say hello.")
    page.click("[data-act=correct]")
    page.fill("#correction", "Hello, and welcome.")
    page.click(".panel button[type=submit]")
    page.wait_for_selector(".original")
    (event,) = said(system, "Say hello.")
    assert isinstance(event.said, Edit)
    assert event.said.text == "Hello, and welcome."
    assert page.locator("#talk .answer > .prose").inner_text() == "Hello, and welcome."


def test_conversations_are_kept_apart_and_each_browser_has_its_own(
    page: "Page", browser: "Browser", system: System
) -> None:
    open_page(page, system)
    ask(page, "First subject, please.")
    page.click("[data-act=new]")
    page.wait_for_selector(".welcome")
    ask(page, "Second subject, please.")
    assert page.locator("#list .row").all_inner_texts() == ["Second subject, please.", "First subject, please."]
    page.click("#list .row:has-text('First subject')")
    page.wait_for_selector("#talk .bubble:has-text('First subject')")
    assert page.locator("#talk .bubble").count() == 1
    stranger = browser.new_context()
    try:
        other = stranger.new_page()
        open_page(other, system)
        assert other.locator("#list .row").count() == 0
    finally:
        stranger.close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(browser: "Browser", system: System, dark: bool) -> None:
    phone = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark" if dark else "light")
    try:
        page = phone.new_page()
        open_page(page, system)
        assert page.evaluate("document.body.classList.contains('dark')") is dark
        ask(page, f"A word that is as {'long' * 20}, please.")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("[data-drawer]")
        page.wait_for_selector("#side.open [data-act=new]:visible")
        page.keyboard.press("Escape")
        page.wait_for_selector("#side:not(.open)", state="attached")
    finally:
        phone.close()
