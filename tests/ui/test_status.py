"""The status page in a real browser: who is let in, what is shown, and moving what is live."""

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from feedback.events import Comparison, Source, Verdict
from feedback.ids import BASE_VERSION, TurnId, Version, new_turn_id
from feedback.ledger import Speaker
from feedback.turns import Turn
from serve.access.key_files import HOME_TENANT
from tests.fake_engine import fake_engine
from tests.services import Engine
from tests.ui.system import System, start_system
from ui.visitor import COOKIE

if TYPE_CHECKING:
    from playwright.sync_api import Page

ASK = {"act": "ask", "move": "rollback"}
DO = {"act": "do", "text": "because"}


def sign_in(page: "Page", system: System, key: str) -> None:
    page.goto(f"{system.url}/status")
    page.wait_for_selector("#key input")
    page.fill("#key input", key)
    page.click("#sign-in-button")


def taught(system: System) -> Version:
    """A version that the gate let through, made live."""
    claim = system.rows.job(int(uuid.uuid4().hex[:4], 16))
    system.rows.train(claim, 20)
    version = system.rows.draft(claim, uuid.uuid4().hex[:12])
    system.rows.judge(claim, version, "pass")
    system.rows.go_live(version, "gate pass")
    return version


def test_a_wrong_key_is_refused_and_so_is_the_pages_own(page: "Page", system: System) -> None:
    for key in ("bk-wrong", system.gateway.key("page")):
        sign_in(page, system, key)
        page.wait_for_selector(".notice.bad")
        page.wait_for_timeout(2500)
        assert page.locator(".card").count() == 0
        assert page.input_value("#key input") == ""


@pytest.fixture
def engineless(tmp_path: Path, model_dir: Path) -> Iterator[System]:
    """A running page with nothing that answers behind it: operators need no engine."""
    with (
        fake_engine() as fake,
        start_system(tmp_path, Engine(fake.url, tmp_path / "home", model_dir)) as running,
    ):
        yield running


def test_calls_to_the_queue_get_and_move_nothing_unless_signed_in(engineless: System) -> None:
    """Every handler of the page is called by hand, as Gradio's open queue lets anybody do."""
    version = taught(engineless)
    operator = engineless.gateway.key("operator")
    with httpx.Client(base_url=f"{engineless.url}/status", timeout=30) as client:
        tab = Tab(client)
        assert not version_shown(tab.try_everything(), version)
        assert version_shown(tab.click("sign-in-button", operator), version)
        assert not version_shown(tab.click("sign-out"), version)
        assert not version_shown(tab.try_everything(), version)
        assert engineless.registry.view().live == version
        assert version_shown(tab.click("sign-in-button", operator), version)
        stranger = Tab(client, session=tab.session)
        client.cookies.clear()
        client.get("/")
        assert not version_shown(stranger.try_everything(), version), "another browser that knows the tab's session"
        assert engineless.registry.view().live == version


def test_the_same_calls_move_what_is_live_once_signed_in(engineless: System) -> None:
    version = taught(engineless)
    with httpx.Client(base_url=f"{engineless.url}/status", timeout=30) as client:
        tab = Tab(client)
        tab.click("sign-in-button", engineless.gateway.key("operator"))
        tab.send("ask", "submit", said=ASK)
        assert engineless.registry.view().live == version
        assert "Rolled back" in tab.send("ask", "submit", said=DO)
    assert engineless.registry.view().live == BASE_VERSION


def version_shown(told: str, version: Version) -> bool:
    """Whether an answer of the queue names a version, which every drawing of the console does."""
    return version.partition("-")[2] in told or "v0000" in told


class Tab:
    """A browser tab without a browser: one session, and the cookie that the page gave to `client`."""

    def __init__(self, client: httpx.Client, session: str | None = None) -> None:
        self.session = session or uuid.uuid4().hex[:11]
        self._client = client
        assert client.get("/").is_success
        assert COOKIE in client.cookies
        config = client.get("/config").json()
        self._handlers = config["dependencies"]
        self._named = {component["props"].get("elem_id"): component["id"] for component in config["components"]}

    def try_everything(self) -> str:
        """Ask for a rollback and give a reason, through every handler that there is; all that was answered."""
        told = ""
        for handler in self._handlers:
            told += self._call(handler, "x", ASK)
            told += self._call(handler, "x", DO)
        return told

    def click(self, button: str, value: str = "") -> str:
        """Click the button of that name, with `value` in its field."""
        return self.send(button, "click", value)

    def send(self, part: str, event: str, value: str = "", said: dict[str, str] | None = None) -> str:
        """An event of the part of that name; all that was answered."""
        at = [self._named[part], event]
        return self._call(next(handler for handler in self._handlers if at in handler["targets"]), value, said or {})

    def _call(self, handler: dict[str, Any], value: str, said: dict[str, str]) -> str:
        """One event put into the queue by hand; everything that comes back of it."""
        body = {
            "data": [value] * len(handler["inputs"]),
            "fn_index": handler["id"],
            "session_hash": self.session,
            "event_data": said,
        }
        assert self._client.post("/gradio_api/queue/join", json=body).status_code == 200
        told = ""
        with self._client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                told += line
                if line.startswith("data:") and json.loads(line[5:])["msg"] in ("process_completed", "close_stream"):
                    break
        return told


def test_an_operator_sees_the_job_and_the_gate_and_rolls_back(page: "Page", system: System) -> None:
    system.rows.announce()
    version = taught(system)
    running = system.rows.job(int(uuid.uuid4().hex[:4], 16))
    system.rows.train(running, 30)
    sign_in(page, system, system.gateway.key("operator"))
    page.wait_for_selector(".card")
    assert version.partition("-")[0] in page.locator("#overview .big").first.inner_text()
    assert page.locator("#training [role=progressbar]").get_attribute("aria-valuenow") == "50"
    system.rows.train(running, 45)
    page.wait_for_selector("#training [role=progressbar][aria-valuenow='75']", timeout=30_000)
    assert page.locator("#training .chart").count() == 4
    report = page.locator("details.gate").first
    report.locator("summary").click()
    page.wait_for_timeout(4500)
    assert report.locator("tr:has-text('naturalness')").is_visible(), "a refresh folded the report"
    page.click("[data-move=rollback]")
    page.click(".ask button[type=submit]")
    assert system.registry.view().live == version, "a reason is required"
    page.fill("#reason", "people like it less")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice.good:has-text('Rolled back')")
    view = system.registry.view()
    assert view.live == BASE_VERSION
    assert view.policies[version].state == "withdrawn"
    assert "people like it less" in page.locator("#audit").inner_text()
    page.click("#training [data-move=cancel]")
    page.fill("#reason", "it learns nothing")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice.good:has-text('is being cancelled')")
    page.wait_for_selector("#training :text('it learns nothing')")
    assert page.locator("#training [data-move=cancel]").count() == 0, "once is enough"
    assert "it learns nothing" in str(system.rows.jobs.get(running.job_id).cancelled)
    system.rows.jobs.fail(running, "ended by the test", retry=False)


def test_an_operator_chooses_the_recipe_that_a_training_goes_by(page: "Page", system: System) -> None:
    system.rows.announce()
    for i in range(8):
        turns = [made_turn(f"Question {i}?", answer) for answer in ("Yes.", "No.")]
        system.ledger.append_turns(turns)
        ids = (turns[0].id, turns[1].id)
        said = Comparison(kind="comparison", turn_ids=ids, verdict=Verdict.first, source=Source.simulated)
        system.ledger.append_event(said, Speaker(HOME_TENANT))
    sign_in(page, system, system.gateway.key("operator"))
    page.click("[data-move=train]")
    page.wait_for_selector("#recipe")
    assert page.locator("#recipe option").all_inner_texts() == ["dpo", "kto"]
    assert page.input_value("#recipe") == "dpo", "the default stands first in line"
    page.select_option("#recipe", "kto")
    page.fill("#reason", "thumbs alone")
    page.wait_for_timeout(2500)
    assert page.input_value("#recipe") == "kto", "a refresh took the choice back"
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice.good:has-text('kto')")
    job = system.rows.jobs.recent()[0]
    assert (job.recipe, job.reason) == ("kto", "thumbs alone")
    claim = system.rows.jobs.claim(job.id, worker="test", lease_s=60)
    assert claim is not None
    system.rows.jobs.fail(claim, "ended by the test", retry=False)


def made_turn(question: str, answer: str) -> Turn:
    return Turn(
        id=TurnId(new_turn_id()),
        at=time.time(),
        tenant=HOME_TENANT,
        version=BASE_VERSION,
        messages=({"role": "user", "content": question},),
        answer=answer,
    )


def test_a_move_that_is_refused_is_told_and_a_key_is_forgotten_on_signing_out(page: "Page", system: System) -> None:
    claim = system.rows.job(int(uuid.uuid4().hex[:4], 16))
    version = system.rows.draft(claim, uuid.uuid4().hex[:12])
    system.rows.judge(claim, version, "inconclusive")
    sign_in(page, system, system.gateway.key("operator"))
    page.click(f"[data-move=promote][data-of='{version}']")
    page.fill("#reason", "to see it refused: there are no files")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice.bad")
    assert system.registry.view().live == BASE_VERSION
    page.reload()
    page.wait_for_selector(".card")
    page.click("#sign-out")
    page.wait_for_selector("#key input")
    page.reload()
    page.wait_for_selector("#key input")
    assert page.locator(".card").count() == 0
