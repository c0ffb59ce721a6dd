"""The page's small pure parts: markup, cookies, what a browser keeps, numbers, sentences, the closed doors."""

import os
from pathlib import Path
from typing import Any

import pytest

from ui.chat.kept import Kept, read_kept
from ui.errors import GatewayAway, GatewayRefused, NotSignedIn, UiError, UnknownVisitor, sentence
from ui.markup import answer_html, attr
from ui.status.charts import Line, line_chart, number
from ui.status.console import allowed
from ui.status.operators import IDLE_S, Operators
from ui.status.view import CHARTS, curves_html
from ui.visitor import COOKIE, Visitors, load_secret

SECRET = b"0" * 64


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "![x](https://example.com/pixel.png)",
        "<style>body{display:none}</style>",
        "<https://x.example/\"onmouseover=alert(1)>",
    ],
)  # fmt: skip
def test_a_models_words_can_neither_run_nor_load_anything(hostile: str) -> None:
    made = answer_html(hostile)
    for risky in ("<script", "<img", "<style", 'href="javascript', 'href="data', '"onmouseover'):
        assert risky not in made


def test_markdown_is_drawn() -> None:
    made = answer_html("**bold** `code`\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\n[link](https://example.com)")
    assert "<strong>bold</strong>" in made
    assert "<table>" in made
    assert 'rel="noopener noreferrer nofollow"' in made
    assert attr('a"\nb') == "a&quot;&#10;b"


def test_a_cookie_names_the_visitor_and_a_forged_one_does_not() -> None:
    visitors = Visitors(SECRET)
    value = visitors.new_cookie().split(";")[0].removeprefix(f"{COOKIE}=")
    assert visitors.name_in({COOKIE: value}).startswith("visitor-")
    assert {"HttpOnly", "SameSite=Lax"} <= {part.strip() for part in visitors.new_cookie().split(";")}
    for forged in ({}, {COOKIE: ""}, {COOKIE: value[:-1]}, {COOKIE: "visitor-1"}):
        with pytest.raises(UnknownVisitor):
            visitors.name_in(forged)
    assert not Visitors(b"1" * 64).knows({COOKIE: value})


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "cookie.secret"
    first = load_secret(path)
    assert load_secret(path) == first
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["cookie.secret"]


def test_an_operator_key_is_held_for_its_own_browser_until_it_idles() -> None:
    now = 0.0
    visitors = Visitors(SECRET)
    mine, other = ({COOKIE: visitors.new_cookie().split(";")[0].removeprefix(f"{COOKIE}=")} for _ in range(2))
    operators = Operators(visitors, clock=lambda: now)
    operators.sign_in(mine, "bk-key")
    assert operators.key_of(mine) == "bk-key"
    with pytest.raises(NotSignedIn):
        operators.key_of(other)
    now = IDLE_S + 1
    with pytest.raises(NotSignedIn):
        operators.key_of(mine)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (None, Kept()),
        ([], Kept()),
        ({"current": "ab12", "undone": ["x", 3, "<b>"], "hidden": "no", "draft": 7}, Kept("ab12", frozenset({"x"}))),
        ({"current": "../x y", "draft": "hello", "place": 4}, Kept(draft="hello", place=4)),
        ({"draft": "hello", "place": -1}, Kept(draft="hello")),
        ({"draft": "hello", "place": True}, Kept(draft="hello")),
    ],
)
def test_what_a_browser_kept_is_read_only_as_far_as_it_fits(sent: Any, kept: Kept) -> None:
    assert read_kept(sent) == kept
    assert read_kept(kept.as_json()) == kept


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (0.6931, "0.693"), (-0.1, "−0.1"), (0.0041, "0.0041"), (12.345, "12.3"), (1234.5, "1234"), (1.0, "1")],
)
def test_numbers_have_three_figures(value: float, written: str) -> None:
    assert number(value) == written


def test_a_chart_says_what_it_shows_and_survives_odd_points() -> None:
    made = line_chart("Loss", [Line("", [(1, 0.7), (2, float("nan")), (3, 0.5)])])
    assert 'aria-label="Loss: value from 0.7 to 0.5 in 2 steps"' in made
    assert "nan" not in made
    assert "No points yet" in line_chart("Loss", [Line("", [])])
    assert "<polyline" in line_chart("Loss", [Line("", [(1, 0.7)])])


@pytest.mark.parametrize(
    ("policy", "moves"),
    [
        ({"state": "candidate", "adapter": "x"}, ("canary", "promote", "withdraw")),
        ({"state": "canary", "adapter": "x"}, ("promote", "retire", "withdraw")),
        ({"state": "live", "adapter": "x"}, ("withdraw",)),
        ({"state": "live", "adapter": None}, ()),
        ({"state": "rejected", "adapter": "x"}, ()),
        ({"state": "retired", "adapter": "x"}, ()),
    ],
)
def test_only_allowed_moves_are_offered(policy: dict[str, Any], moves: tuple[str, ...]) -> None:
    assert allowed(policy) == moves


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GatewayAway("x", 5), "Try again in about 5 seconds."),
        (GatewayAway("x"), "Try again in a moment."),
        (GatewayRefused(404, None, "x"), "no longer kept"),
        (GatewayRefused(404, "model_not_found", "x"), "a model that is not served here"),
        (GatewayRefused(400, "context_length_exceeded", "x"), "too long"),
        (GatewayRefused(400, None, "max_tokens is 0."), "max_tokens is 0."),
        (UnknownVisitor(""), "cookies"),
    ],
)
def test_errors_are_told_in_plain_sentences(error: UiError, told: str) -> None:
    assert told in sentence(error)


CURVES = (
    *("loss", "margin", "reward_margin", "chosen_logprob", "rejected_logprob", "accuracy", "kl", "reference_kl"),
    *("entropy", "answer_tokens", "grad_norm", "reward_mean", "reward_spread", "clip_fraction", "value_error"),
)


@pytest.mark.parametrize("key", CURVES)
def test_every_curve_of_a_job_is_drawn_in_a_chart_of_its_own(key: str) -> None:
    [title] = [title for title, lines in CHARTS if key in dict(lines)]
    drawn = curves_html([{"step": step, key: 0.5 * step} for step in (1, 2, 3)])
    assert drawn.count("<figure") == 1
    assert title in drawn
    assert "1.5" in drawn, "the last value"


def test_what_a_job_trains_on_the_way_is_drawn_under_a_heading_of_its_own() -> None:
    reward = [{"step": step, "loss": 0.7, "part": "reward model"} for step in (1, 2)]
    policy = [{"step": step, "loss": 0.4} for step in (1, 2)]
    drawn = curves_html([*reward, *policy])
    assert drawn.count("<figure") == 2
    assert drawn.index("<h3>Reward model</h3>") < drawn.index("<h3>Policy</h3>")
    assert "<h3>Reward model</h3>" in curves_html(reward), "the policy is yet to come"
    assert "<h3>" not in curves_html(policy)
