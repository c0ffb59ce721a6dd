"""Training meets the real engine behind the real gateway: the same tokens, the same log-probs, a version going live."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from feedback.connection import connect
from feedback.ids import BASE_VERSION, LineName
from feedback.jobs import JobRequest, JobStore
from feedback.ledger import Ledger
from feedback.policies import Policy, PolicyState
from feedback.registry import Registry
from tests.services import Engine, Gateway, start_gateway
from training.base.loading import load_chat_tokens
from training.base.model import SharedBase
from training.errors import GatewayRefused
from training.examples.asked import Prompt
from training.examples.batches import Item, make_pass
from training.examples.example import TokenPair
from training.examples.tokens import ChatTokens
from training.loops.preference import POLICY, train_preference
from training.loops.steps import Watch
from training.publishing.adapter_folders import Published
from training.publishing.publish import Origin, publish
from training.recipe import parse_recipe
from training.sampling.gateway import Ask, Sample, SamplingSettings
from training.sampling.gateway import Gateway as GatewayClient

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

LINE = LineName("burnish")
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Why?\n\nReally – why? 🙂 "}],
    [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "An apple."},
        {"role": "user", "content": "<|im_end|> Another\tone."},
    ],
]


@pytest.fixture
def gateway(engine: Engine, redis_url: str) -> Iterator[Gateway]:
    with start_gateway(engine.home, redis_url, engine.url, model=engine.model_path) as started:
        yield started


@pytest.fixture(scope="module")
def tokens(model_dir: Path) -> ChatTokens:
    return load_chat_tokens(model_dir)


def make_client(gateway: Gateway) -> GatewayClient:
    return GatewayClient(gateway.url, gateway.key("worker"), LINE)


@pytest.mark.parametrize("messages", CHATS)
def test_training_makes_the_prompt_tokens_that_the_engine_read(
    gateway: Gateway, tokens: ChatTokens, messages: list[dict[str, Any]]
) -> None:
    turn = answered_turn(gateway, messages, max_tokens=4)
    tokens.check_prompt(turn.messages, turn.prompt_token_ids, where=turn.id)
    assert (turn.token_ids[-1] == tokens.end_id) == (turn.finish_reason == "stop")
    assert tokens.is_faithful(turn.answer, turn.token_ids)


def test_a_finished_answer_of_the_engine_carries_the_end_token(gateway: Gateway, tokens: ChatTokens) -> None:
    turn = answered_turn(gateway, [{"role": "user", "content": "Say only the word yes."}], max_tokens=400)
    assert turn.finish_reason == "stop"
    assert turn.token_ids[-1] == tokens.end_id
    assert tokens.is_faithful(turn.answer, turn.token_ids)


def test_the_engines_logprobs_of_its_answer_are_the_trainers(gateway: Gateway, model_dir: Path) -> None:
    turn = answered_turn(gateway, CHATS[0], max_tokens=40, logprobs=True)
    base = SharedBase(model_dir, torch.device("cpu"))
    with torch.no_grad():
        ours = base.logprobs(make_pass([Item(turn.prompt_token_ids, (turn.token_ids,))]))
    assert turn.logprobs is not None
    off = (ours - torch.tensor(turn.logprobs)).abs().mean().item()
    assert off < 0.05, f"{off:.3f} nats a token"


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_a_trained_adapter_is_taken_by_the_gateway_sampled_from_and_goes_live(
    gateway: Gateway, tokens: ChatTokens, model_dir: Path, kind: str
) -> None:
    made = train_and_enter(gateway, tokens, model_dir, kind)
    client = make_client(gateway)
    client.wait_until_loaded(made.version, within_s=60)
    prompt: Prompt = ({"role": "user", "content": "What is tea?"},)
    answers: dict[int, Sample] = {}
    asks = [Ask(version, prompt, seed=5) for version in (BASE_VERSION, made.version)]
    client.sample(asks, SamplingSettings(0.7, 24, 2, logprobs=True), answers.__setitem__)
    assert len(answers) == 2
    assert all(1 <= len(sample.token_ids) <= 24 for sample in answers.values())
    assert all(len(sample.logprobs) == len(sample.token_ids) for sample in answers.values())
    assert client.context_tokens() == 2048
    with pytest.raises(GatewayRefused, match="v0000-base is live now"):
        client.promote(made.version, "it works", over=made.version)
    client.promote(made.version, "it works", over=BASE_VERSION)
    assert answered_turn(gateway, CHATS[0], max_tokens=2).version == made.version


def train_and_enter(gateway: Gateway, tokens: ChatTokens, folder: Path, kind: str) -> Published:
    """A few real steps on the real model, published and entered as a candidate."""
    client = connect(gateway.redis_url)
    jobs, registry = JobStore(client, LINE), Registry(client, LINE)
    recipe = parse_recipe({"algorithm": "dpo", "epochs": 2, "adapter": {"kind": kind, "rank": 8, "alpha": 16}})
    digest = (folder / "digest.txt").read_text().strip()
    request = JobRequest("dpo", recipe.model_dump(mode="json"), digest, "test", [], 0, "test", "test")
    job = jobs.create(request).job
    claim = jobs.claim(job.id, worker="test", lease_s=600)
    assert claim is not None
    questions = ["What is tea?", "Why do cats sleep?", "Where is Rome?", "How do I rest?"]
    pairs = [
        TokenPair(
            event_id=question,
            question=question,
            prompt=tokens.prompt([{"role": "user", "content": question}]),
            chosen=tokens.answer("That is easy to say."),
            rejected=tokens.answer("There are many things that could be said about this."),
        )
        for question in questions
    ]
    base = SharedBase(folder, torch.device("cpu"))
    quiet = Watch(lambda point: None, lambda share: None, lambda: False)
    train_preference(base, pairs, recipe, gateway.home / "jobs" / job.id, quiet)
    origin = Origin(registry.reserve(claim), digest, job.id, "dpo", recipe.adapter)
    made = publish(base.adapter_state(POLICY), origin, gateway.home / "adapters", base, tokens)
    draft = Policy(
        version=made.version,
        counter=origin.counter,
        state=PolicyState.draft,
        parent=BASE_VERSION,
        base_digest=digest,
        adapter=made.folder.name,
        digest=made.digest,
        rank=recipe.adapter.rank,
        job_id=job.id,
        created_at=0.0,
    )
    registry.add_draft(claim, draft)
    registry.judge(claim, made.version, PolicyState.candidate, gate={"verdict": "pass"}, metrics={})
    return made


def answered_turn(gateway: Gateway, messages: list[dict[str, Any]], *, max_tokens: int, **fields: Any) -> Any:
    """Ask the live policy, and fetch the turn that the ledger keeps of it."""
    body = {"model": "burnish", "messages": messages, "max_tokens": max_tokens, "temperature": 0, "seed": 1, **fields}
    request = urllib.request.Request(
        f"{gateway.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={**gateway.headers("page"), "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        turn_id = json.load(response)["id"]
    turn = Ledger(connect(gateway.redis_url), LINE).turn(turn_id)
    assert turn is not None
    return turn
