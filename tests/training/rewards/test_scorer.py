"""A real scorer process over HTTP: the numbers of the same model in process, and what bad input gets."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from deploy.cli import app
from tests.services import ROOT, answers, free_port, offline, running
from tests.training.loops.notes import Notes
from tests.training.tiny import TEMPLATE, make_pairs, make_reward_recipe, make_tokenizer
from training.base.convert import model_digest
from training.base.model import SharedBase
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.reward import train_reward
from training.rewards.reading import read_pairs
from training.rewards.reward_files import RewardOrigin, export_reward, load_reward
from training.rewards.reward_model import Answered, RewardModel, assess
from training.rewards.scorer import MOST_BYTES, CompareItem, CompareRequest, Refused, ScoreItem, ScoreRequest
from training.rewards.scorer import Scorer as Face

Message = dict[str, Any]
ASK: list[Message] = [{"role": "user", "content": "Say a"}]
PARTS: list[Message] = [{"role": "user", "content": [{"type": "text", "text": "Say a"}]}]
MORE: list[Message] = [*ASK, {"role": "assistant", "content": "a"}, {"role": "user", "content": "And b?"}]
SAID = [(ASK, "yes"), (MORE, "no, not at all"), (ASK, "no, not at all!"), (PARTS, ""), (ASK, "日本語 ok")]


@dataclass(frozen=True)
class Scorer:
    """A running scorer and the model it answers with, loaded here too."""

    url: str
    home: Path
    model: RewardModel
    name: str

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON; a body of bytes is sent as it is."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def start(kind: str, model: Path, tokens: ChatTokens, home: Path) -> Iterator[Scorer]:
    torch.set_num_threads(1)
    ensemble = 2 if kind == "reward" else 1
    recipe = make_reward_recipe(algorithm=kind, ensemble=ensemble, optimizer={"learning_rate": 5e-3})
    base = SharedBase(model, torch.device("cpu"))
    pairs = make_pairs(tokens, 24)
    members = train_reward(base, read_pairs(pairs, recipe, tokens), recipe, home / "job", Notes().watch())
    origin = RewardOrigin(model_digest(model), "job-1", kind)
    trained = RewardModel(base, tokens, recipe, members)
    folder = export_reward(
        trained, origin, home / "reward_models", lambda written: assess(written, pairs, pairs)
    ).folder
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [sys.executable, "-m", "deploy.cli", "rewards", "serve", folder.name, "--port", str(port)],
        log=home / "scorer.log",
        ready=lambda: answers(f"{url}/healthz"),
        within_s=120,
        env={**offline(), "BURNISH_MODEL_PATH": str(model), "BURNISH_HOME": str(home), "PYTHONPATH": str(ROOT)},
    ):
        loaded = load_reward(folder, SharedBase(model, torch.device("cpu")), tokens, model_digest(model))
        yield Scorer(url, home, loaded, folder.name)


@pytest.fixture(scope="module")
def scorer(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    yield from start("reward", tiny_model, tiny_tokens, tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def pairwise(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    yield from start("pairwise_reward", tiny_model, tiny_tokens, tmp_path_factory.mktemp("pairwise"))


def test_rewards_over_http_are_those_in_process(scorer: Scorer, tiny_tokens: ChatTokens) -> None:
    status, body = scorer.post("/score", {"items": [{"messages": m, "answer": a} for m, a in SAID]})
    asked = [Answered(tiny_tokens.prompt(messages), tiny_tokens.answer(answer)) for messages, answer in SAID]
    assert (status, body["model"]) == (200, scorer.name)
    found = [(each["reward"], each["spread"], each["heads"]) for each in body["items"]]
    assert found == [(each.value, each.spread, each.heads) for each in scorer.model.rewards(asked)]
    assert all(spread > 0 for _, spread, _ in found)


@pytest.mark.parametrize("which", ["scorer", "pairwise"])
def test_comparisons_over_http_are_those_in_process(
    which: str, request: pytest.FixtureRequest, tiny_tokens: ChatTokens
) -> None:
    asked: Scorer = request.getfixturevalue(which)
    items = [{"messages": ASK, "first": "yes", "second": "no"}, {"messages": MORE, "first": "b", "second": "b, b, b"}]
    status, body = asked.post("/compare", {"items": items})
    pairs = [
        TokenPair(
            "", "", tiny_tokens.prompt(i["messages"]), tiny_tokens.answer(i["first"]), tiny_tokens.answer(i["second"])
        )
        for i in items
    ]
    assert status == 200
    assert body["items"] == [
        {"margin": each.margin, "spread": each.spread, "probability": each.probability}
        for each in asked.model.preferences(pairs)
    ]


def test_many_callers_at_once_get_what_each_gets_alone(scorer: Scorer) -> None:
    bodies = [{"items": [{"messages": m, "answer": f"{a} {i}"} for m, a in SAID] * 8} for i in range(8)]
    alone = [scorer.post("/score", body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as callers:
        at_once = list(callers.map(lambda body: scorer.post("/score", body), bodies))
    assert at_once == alone
    assert {status for status, _ in at_once} == {200}


def test_answers_are_compared_by_the_joined_reward(tiny_model: Path, tiny_tokens: ChatTokens, tmp_path: Path) -> None:
    heads = ["overall", "harmless"]
    recipe = make_reward_recipe(heads=heads, rule={"kind": "weighted_sum", "weights": {"harmless": 2.0}})
    base = SharedBase(tiny_model, torch.device("cpu"))
    pairs = [replace(pair, aspect=heads[i % 2]) for i, pair in enumerate(make_pairs(tiny_tokens))]
    members = train_reward(base, read_pairs(pairs, recipe, tiny_tokens), recipe, tmp_path, Notes().watch())
    model = RewardModel(base, tiny_tokens, recipe, members)
    face = Face(model, base.context_tokens)
    scored = face.score(ScoreRequest(items=[ScoreItem(messages=ASK, answer=said) for said in ("yes", "no")]))
    (compared,) = face.compare(CompareRequest(items=[CompareItem(messages=ASK, first="yes", second="no")]))
    assert compared["margin"] == pytest.approx(scored[0]["reward"] - scored[1]["reward"], abs=1e-3)
    assert scored[0]["heads"]["harmless"] != pytest.approx(scored[1]["heads"]["harmless"], abs=1e-3)
    report = assess(model, pairs, pairs).report["report"]
    assert report["heads"].keys() == set(heads)
    assert report["joined"]["pairs"] == report["heads"]["overall"]["pairs"]
    by_rule = [p.margin for p in model.preferences(pairs[::2], joined=True)]
    assert report["joined"]["accuracy"] == pytest.approx(sum(margin > 0 for margin in by_rule) / len(by_rule))


def test_healthz_says_which_model_answers(scorer: Scorer, pairwise: Scorer) -> None:
    for each, kind, heads, members in ((scorer, "reward", ["overall"], 2), (pairwise, "pairwise_reward", [], 1)):
        with urllib.request.urlopen(f"{each.url}/healthz", timeout=10) as response:
            body = json.load(response)
        assert body.pop("temperature") == each.model.temperature
        assert body == {"status": "ok", "model": each.name, "kind": kind, "heads": heads, "members": members}


GOOD = {"messages": ASK, "answer": "yes"}


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"{", 400, None, "invalid JSON"),
        (b'{"items": [{"messages": [{"role": "user", "content": "\\ud800"}], "answer": "x"}]}', 400, None, "JSON"),
        (b"\xff\xfe", 400, None, "JSON"),
        ([], 400, None, "object"),
        ({}, 400, "items", "required"),
        ({"items": []}, 400, "items", "at least 1"),
        ({"items": [GOOD] * 257}, 400, "items", "at most 256"),
        ({"items": [GOOD, {"messages": ASK}]}, 400, "items.1.answer", "required"),
        ({"items": [{**GOOD, "answer": 7}]}, 400, "items.0.answer", "valid string"),
        ({"items": [{**GOOD, "messages": []}]}, 400, "items.0.messages", "at least 1"),
        (
            {"items": [{**GOOD, "messages": [{"role": "wizard", "content": "x"}]}]},
            400,
            "items.0.messages.0.role",
            "user",
        ),
        ({"items": [{**GOOD, "weight": 1}]}, 400, "items.0.weight", "not permitted"),
        ({"items": [GOOD, {**GOOD, "answer": "x" * 600}]}, 400, "items.1", "at most 512; shorten it"),
        (b" " * (MOST_BYTES + 1), 413, None, "fewer items"),
    ],
)
def test_bad_input_is_refused_by_field_and_reason(
    scorer: Scorer, body: Any, status: int, param: str | None, says: str
) -> None:
    found, answer = scorer.post("/score", body)
    error = answer["error"]
    assert (found, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert says in error["message"]


def test_messages_that_the_template_refuses_are_named(scorer: Scorer) -> None:
    tokenizer = make_tokenizer()
    strict = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('no such talk') }}{% endif %}"
    tokenizer.chat_template = strict + TEMPLATE
    own = scorer.model
    face = Face(RewardModel(own.base, ChatTokens(tokenizer), own.recipe, own.members), context_tokens=512)
    refused = {"messages": [{"role": "user", "content": "no"}], "answer": "x"}
    with pytest.raises(Refused, match="no such talk") as found:
        face.score(ScoreRequest.model_validate({"items": [GOOD, refused]}))
    assert (found.value.status, found.value.param) == (400, "items.1.messages")


def test_a_pairwise_model_sends_rewards_to_compare(pairwise: Scorer) -> None:
    status, body = pairwise.post("/score", {"items": [GOOD]})
    assert status == 400
    assert "POST /compare" in body["error"]["message"]


def test_both_answers_must_fit_into_a_pairwise_context(pairwise: Scorer, scorer: Scorer) -> None:
    body = {"items": [{"messages": ASK, "first": "x" * 250, "second": "y" * 250}]}
    assert scorer.post("/compare", body)[0] == 200
    status, answer = pairwise.post("/compare", body)
    assert (status, answer["error"]["param"]) == (400, "items.0")


def test_an_unknown_path_is_told_what_there_is(scorer: Scorer) -> None:
    status, body = scorer.post("/rank", {})
    assert status == 404
    assert "/score" in body["error"]["message"]
    assert scorer.post("/healthz", {})[0] == 405


def test_exported_models_are_listed_with_their_worth_and_one_that_is_not_there_is_named(
    scorer: Scorer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_HOME", str(scorer.home))
    monkeypatch.setenv("BURNISH_MODEL_PATH", str(tiny_model))
    listed = CliRunner().invoke(app, ["rewards", "list"])
    assert listed.output.startswith(f"{scorer.name} ")
    assert "of 24 votes" in listed.output
    missing = CliRunner().invoke(app, ["rewards", "serve", "reward-0123456789ab"])
    assert missing.exit_code == 1
    assert "reward-0123456789ab holds no exported reward model" in missing.output
