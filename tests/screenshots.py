"""`python -m tests.screenshots`: the README's pictures, taken in a real browser, into docs/images.

Uses the Burnish that runs (BURNISH_HOME and the ports as for `burnish up`); where none runs, starts engine, gateway and
page by itself, with rows in the ledger for the status page. Where a version is on trial, only the pictures of that are
taken; begin it with `burnish policies canary VERSION --duel-share 1 --reason …`, so that every prompt is a duel.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from deploy.settings import LaunchSettings
from tests.services import CHROMIUM_FLAGS, ROOT, answers, find_chromium, start_engine
from tests.ui.rows import Rows
from tests.ui.system import start_system

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = ROOT / "docs" / "images"
QUESTIONS = ("Why do leaves turn red in autumn?", "Could you say that in two sentences?")
TALE = "Tell me a short story about a canary."
MARGIN = 10.0
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
ANSWER_MS = 120_000
BOTH_UNDER_WAY = """(least) => {
    const texts = [...document.querySelectorAll("#live .compare.writing .prose")].map((each) => each.innerText.length)
    return texts.length === 2 && Math.min(...texts) > least
}"""


@dataclass(frozen=True)
class Running:
    """The page, and the rules of the version on trial, if there is one."""

    url: str
    operator_key: str
    trial: dict[str, Any] | None = None


@contextmanager
def running_system() -> Iterator[Running]:
    settings = LaunchSettings.read()
    if answers(f"{settings.ui_url}/healthz"):
        key = (settings.home / "operator.key").read_text(encoding="utf-8").strip()
        standing = httpx.get(f"{settings.gateway_url}/operator/canary", headers={"Authorization": f"Bearer {key}"})
        yield Running(settings.ui_url, key, standing.raise_for_status().json().get("rules"))
        return
    print("no Burnish runs here: starting one", file=sys.stderr)
    places = (Path(settings.model_path), ROOT / ".cache" / "model")
    model = next((place for place in places if (place / "config.json").exists()), None)
    if model is None:
        raise SystemExit(f"there is no model in {places[0]}: run `make up` once, which converts it")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with start_engine(folder / "engine", model) as engine, start_system(folder, engine) as system:
            fill(system.rows)
            yield Running(system.url, system.gateway.key("operator"))


def fill(rows: Rows) -> None:
    """A version refused, one waiting for more votes, and a job on its way."""
    rows.announce()
    for number, verdict in enumerate(("fail", "inconclusive"), start=1):
        claim = rows.job(number)
        rows.train(claim, 60)
        rows.judge(claim, rows.draft(claim, f"{number * 0x3F9A12C04B1E % 16**12:012x}"), verdict)
    rows.train(rows.job(3), 34)


def shoot(page: "Page", name: str, *, whole: bool = False) -> None:
    page.wait_for_timeout(400)
    page.mouse.move(0, 0)
    page.screenshot(path=IMAGES / f"{name}.png", full_page=whole)
    print(f"docs/images/{name}.png")


def chat(page: "Page", system: Running, name: str) -> None:
    """A conversation, then two answers side by side, then the vote."""
    page.goto(system.url)
    page.wait_for_selector(".welcome, .talk")
    for question in QUESTIONS:
        page.fill("#box textarea", question)
        page.press("#box textarea", "Enter")
        page.wait_for_selector(f"#talk .bubble:has-text('{question}')")
        answered(page)
    shoot(page, f"chat-{name}")
    for _ in range(4):  # two answers may be the same word for word, and are then not asked about
        page.click("[data-slow=regenerate]")
        page.wait_for_selector(".waiting")
        answered(page)
        if page.locator(".compare").count():
            break
    page.wait_for_timeout(800)
    shoot(page, f"compare-{name}")
    page.click("[data-choice=left]")
    page.wait_for_selector(".notice.good")
    shoot(page, f"voted-{name}")


def duel(page: "Page", system: Running, name: str) -> None:
    """Both versions' answers as they are being written. Nobody votes here."""
    page.goto(system.url)
    page.wait_for_selector(".welcome, .talk")
    page.fill("#box textarea", TALE)
    page.press("#box textarea", "Enter")
    page.wait_for_selector("#live .compare.writing", timeout=ANSWER_MS)
    page.wait_for_function(BOTH_UNDER_WAY, arg=180 if name == "phone" else 420, timeout=ANSWER_MS)
    shoot(page, f"duel-{name}")
    page.wait_for_selector("#live .choices", timeout=ANSWER_MS)
    page.click("[data-act=skip]")


def answered(page: "Page") -> None:
    page.wait_for_timeout(500)
    page.wait_for_function("() => !document.querySelector('[aria-busy=true]')", timeout=ANSWER_MS)


def status(page: "Page", system: Running, name: str) -> None:
    """The console, with a gate report unfolded where there is one."""
    sign_in(page, system)
    report = page.locator("details.gate summary").first
    if report.count():
        report.click()
    shoot(page, f"status-{name}", whole=True)


def canary(page: "Page", system: Running, name: str) -> None:
    """The console's card of the version on trial."""
    sign_in(page, system)
    page.wait_for_timeout(400)
    page.mouse.move(0, 0)
    box = page.locator("#canary .card").bounding_box()
    assert box is not None
    clip = {
        "x": max(0.0, box["x"] - MARGIN),
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
    page.screenshot(path=IMAGES / f"canary-{name}.png", full_page=True, clip=clip)
    print(f"docs/images/canary-{name}.png")


def sign_in(page: "Page", system: Running) -> None:
    page.goto(f"{system.url}/status")
    page.fill("#key input", system.operator_key)
    page.click("#sign-in-button")
    page.wait_for_selector("#policies .card")


def take(browser: "Browser", system: Running) -> None:
    scenes: tuple[Callable[[Page, Running, str], None], ...] = (chat, status)
    if system.trial is not None:
        scenes = (duel, canary) if system.trial["duel_share"] == 1 else (canary,)
    for name, viewport, scheme in (("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "light")):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=1.5)
        for scene in scenes:
            scene(context.new_page(), system, name)
        context.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("no `chromium` on PATH: apt-get install chromium")
    IMAGES.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with running_system() as system, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        take(browser, system)
        browser.close()
    print(f"taken in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
