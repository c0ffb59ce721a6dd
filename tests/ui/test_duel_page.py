"""Blind duels and the canary's panel in a real browser, on the real gateway and ledger and a fake engine."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feedback.events import Comparison, Verdict
from feedback.ids import TurnId
from serve.access.key_files import HOME_TENANT
from tests.adapters import make_adapter
from tests.fake_engine import FakeEngine, fake_engine
from tests.services import Engine
from tests.ui.system import System, start_system
from tests.ui.test_page import ANSWER_MS, ANSWERS, open_page, said
from tests.ui.test_status import sign_in
from tests.ui.trial import WORDS, Trial, begin_trial

if TYPE_CHECKING:
    from playwright.sync_api import Page

WRITING = "#live .compare.writing"
BOTH_HAVE_COME = f"() => [...document.querySelectorAll('{WRITING} .prose')].filter((one) => one.innerText).length > 1"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        yield running


@pytest.fixture(scope="module")
def system(fake: FakeEngine, tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("duels")
    with start_system(folder, Engine(fake.url, folder / "engine", model_dir)) as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    return make_adapter(tmp_path_factory.mktemp("made") / "one", model_dir, seed=1, scale=0.1)


@pytest.fixture
def trial(system: System, fake: FakeEngine, model_dir: Path, made: Path) -> Iterator[Trial]:
    fake.behave(delay_s=0.15)
    running = begin_trial(system.gateway, fake, model_dir, made, least_votes=1, alpha=0.2)
    yield running
    running.retire()


def send(page: "Page", text: str) -> None:
    page.fill("#box textarea", text)
    page.press("#box textarea", "Enter")
    page.wait_for_selector(f"#talk .bubble:has-text('{text}')")


def sides(page: "Page") -> list[str]:
    return [page.locator(f".side[data-side={side}] .prose").inner_text() for side in ("left", "right")]


def test_both_answers_are_written_at_once_and_the_vote_counts(page: "Page", system: System, trial: Trial) -> None:
    open_page(page, system)
    send(page, "What is tea?")
    page.wait_for_selector(WRITING)
    page.wait_for_function(BOTH_HAVE_COME)
    assert page.locator("#live .choice").count() == 0, "a vote is asked for before both are whole"
    assert page.locator("#stop").is_visible()
    page.keyboard.press("1")
    page.wait_for_selector("#live .choices", timeout=ANSWER_MS)
    assert not said(system, "What is tea?"), "a key voted before both were whole"
    shown = sides(page)
    assert set(shown) == set(WORDS.values())
    assert not re.search(r"v\d{4}|chatcmpl", page.content().replace("burnish-kept-v01", "")), "the pair is not blind"
    page.reload()
    page.wait_for_selector("#live .choices")
    assert sides(page) == shown
    page.locator("#compare-title").focus()
    page.keyboard.press("2")
    page.wait_for_selector(".notice.good")
    (event,) = said(system, "What is tea?")
    assert isinstance(event.said, Comparison)
    assert event.said.verdict is Verdict.second
    assert event.said.shown is not None
    assert event.said.shown.mode == "at_once"
    assert page.locator(ANSWERS).all_inner_texts() == [shown[1]]
    first = trial.duel(TurnId(event.said.turn_ids[0])).first
    assert trial.votes() == {"losses" if first == trial.version else "wins": 1}
    chosen = "v0000" if first == trial.version else trial.version.partition("-")[0]
    assert f"It is by {chosen}, the other by" in page.locator(".notice.good").inner_text()
    page.reload()
    page.wait_for_selector(ANSWERS)
    assert page.locator(ANSWERS).all_inner_texts() == [shown[1]]


def test_a_duel_stopped_in_the_middle_asks_for_no_vote(page: "Page", system: System, trial: Trial) -> None:
    open_page(page, system)
    page.evaluate(f"""() => new MutationObserver(() => {{
      if (({BOTH_HAVE_COME})()) document.querySelector("#stop")?.click();
    }}).observe(document.body, {{ childList: true, subtree: true }})""")
    send(page, "What is coffee?")
    page.wait_for_selector("#talk .answer", timeout=ANSWER_MS)
    page.wait_for_selector(".notice:has-text('nothing to compare')")
    assert "Stopped before its end." in page.locator("#talk .answer").last.inner_text()
    page.reload()
    page.wait_for_selector("#talk .answer")
    assert page.locator("#live .compare").count() == 0


def test_a_pair_without_a_vote_is_skipped_by_the_next_question(page: "Page", system: System, trial: Trial) -> None:
    open_page(page, system)
    send(page, "What is milk?")
    page.wait_for_selector("#live .choices", timeout=ANSWER_MS)
    first = sides(page)[0]
    page.click("[data-act=skip]")
    page.wait_for_selector(ANSWERS)
    assert page.locator(ANSWERS).all_inner_texts() == [first]
    assert not any(turn.compare_with for turn in system.ledger.turns_of(HOME_TENANT))
    assert not said(system, "What is milk?")


def test_an_operator_tries_a_version_out_watches_it_and_puts_it_away(
    page: "Page", system: System, fake: FakeEngine, model_dir: Path, made: Path
) -> None:
    earlier = begin_trial(system.gateway, fake, model_dir, made)
    sign_in(page, system, system.gateway.key("operator"))
    page.wait_for_selector("#canary .card")
    assert "No decisive vote yet" in page.locator("#canary").inner_text()
    page.click("#canary [data-move=retire]")
    page.fill("#reason", "enough seen")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice.good:has-text('Retired')")
    page.wait_for_selector("#canary .card", state="detached")
    assert earlier.standing() == {"canary": None}
    version = begin_trial(system.gateway, fake, model_dir, made).version
    page.wait_for_selector(f"#canary .version:has-text('{version.partition('-')[0]}')")
