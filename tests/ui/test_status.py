"""The status page in a real browser: who is let in, what is shown, and moving what is live."""

import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx

from feedback.ids import BASE_VERSION, Version
from tests.ui.system import System

if TYPE_CHECKING:
    from playwright.sync_api import Page


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


def test_a_call_to_the_queue_without_the_key_gets_and_moves_nothing(system: System) -> None:
    """Every handler of the page is called by hand, as Gradio's open queue lets anybody do."""
    version = taught(system)
    before = system.registry.view()
    with httpx.Client(base_url=f"{system.url}/status", timeout=30) as client:
        config = client.get("/config").json()
        for dependency in config["dependencies"]:
            for said in ({"act": "ask", "move": "rollback"}, {"act": "do", "text": "because"}):
                answer = call(client, dependency["id"], len(dependency["inputs"]), said)
                assert version not in answer
                assert str(BASE_VERSION) not in answer
    after = system.registry.view()
    assert (after.live, after.epoch) == (before.live, before.epoch) == (version, before.epoch)


def call(client: httpx.Client, function: int, inputs: int, said: dict[str, Any]) -> str:
    """One event put into the queue by hand; everything that comes back of it."""
    session = uuid.uuid4().hex[:11]
    body = {"data": ["x"] * inputs, "fn_index": function, "session_hash": session, "event_data": said}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    told = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            told += line
            if line.startswith("data:") and json.loads(line[5:])["msg"] in ("process_completed", "close_stream"):
                return told
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
    page.wait_for_selector("#training [role=progressbar][aria-valuenow='75']", timeout=6_000)
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
    system.rows.jobs.fail(running, "ended by the test", retry=False)


def test_a_move_that_is_refused_is_told_and_a_key_is_forgotten_on_signing_out(page: "Page", system: System) -> None:
    claim = system.rows.job(int(uuid.uuid4().hex[:4], 16))
    version = system.rows.draft(claim, uuid.uuid4().hex[:12])
    system.rows.judge(claim, version, "inconclusive")
    sign_in(page, system, system.gateway.key("operator"))
    page.click(f"[data-move=promote][data-version='{version}']")
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
