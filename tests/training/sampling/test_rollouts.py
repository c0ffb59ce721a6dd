"""Rounds sampled through the gateway: what stands in the registry and on the disk meanwhile, and after a kill."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from feedback.ids import BASE_VERSION
from feedback.jobs import Claim
from feedback.policies import PolicyState
from tests.training.stand_in_gateway import stand_in_gateway
from tests.training.tiny_engine import TinyEngine
from tests.training.workplace import LINE, Workplace
from training.algorithms import AdapterRecipe, RolloutRecipe
from training.base.model import SharedBase
from training.errors import GatewayRefused, Stopped
from training.examples.tokens import ChatTokens
from training.loops.steps import POLICY
from training.publishing.publish import Origin
from training.sampling.gateway import Gateway, Patience, Sample
from training.sampling.rollouts import Asked, EngineRollouts, is_unchanged, round_prompts
from training.settings import Settings
from training.worker.attempt import Attempt

ADAPTER = AdapterRecipe(rank=8, alpha=16)
RECIPE = RolloutRecipe(rounds=3, prompts=2, answers=3, max_tokens=5, concurrency=2)
PROMPTS = [({"role": "user", "content": f"Say {letter}"},) for letter in "abc"]


class Calls:
    """A sampler that counts what it is asked."""

    def __init__(self, engine: TinyEngine, adapters: Path) -> None:
        self.versions: Counter[str] = Counter()
        self._sample = engine.sampler(adapters)

    def __call__(self, version: str, messages: list[dict[str, Any]], seed: int, max_tokens: int) -> Sample:
        self.versions[version] += 1
        return self._sample(version, messages, seed, max_tokens)


@pytest.fixture
def held(place: Workplace) -> Claim:
    claim = place.jobs.claim(place.start_job(), worker="test", lease_s=600)
    assert claim is not None
    return claim


@pytest.fixture
def calls(place: Workplace, tiny_model: Path, tiny_tokens: ChatTokens) -> Calls:
    return Calls(TinyEngine(tiny_model, tiny_tokens), place.home / "adapters")


@pytest.fixture
def url(redis_url: str, calls: Calls) -> Iterator[str]:
    with stand_in_gateway(redis_url, sampler=calls) as found:
        yield found


class Attempted:
    """One attempt at the rounds of a job, as in a process of its own."""

    def __init__(self, place: Workplace, held: Claim, url: str, model: Path, tokens: ChatTokens) -> None:
        self.base = SharedBase(model, torch.device("cpu"))
        self.base.add_adapter(POLICY, ADAPTER, seed=0)
        self.stop = threading.Event()
        attempt = Attempt(
            settings=Settings().model_copy(update={"home": place.home}),
            claim=held,
            job=place.jobs.get(held.job_id),
            jobs=place.jobs,
            ledger=place.ledger,
            registry=place.registry,
            gateway=Gateway(url, "bk-test", LINE, Patience(total_s=30, pause_s=0.05)),
            stop=self.stop,
        )
        origin = Origin(place.registry.reserve(held), place.base_digest, held.job_id, "test", ADAPTER)
        self.rollouts = EngineRollouts(attempt, self.base, tokens, Asked(PROMPTS, RECIPE, 0), origin)

    def state(self, size: float) -> dict[str, torch.Tensor]:
        """An adapter that changes the base by so much."""
        chance = torch.Generator().manual_seed(1)
        return {
            name: size * torch.randn(tensor.shape, generator=chance) if "lora_B" in name else tensor
            for name, tensor in self.base.adapter_state(POLICY).items()
        }


@pytest.fixture
def attempted(place: Workplace, held: Claim, url: str, tiny_model: Path, tiny_tokens: ChatTokens) -> Attempted:
    return Attempted(place, held, url, tiny_model, tiny_tokens)


def rollout_versions(place: Workplace) -> list[str]:
    return [p.version for p in place.registry.view().policies.values() if p.state is PolicyState.rollout]


def folders(place: Workplace) -> list[str]:
    return sorted(path.name for path in (place.home / "adapters").glob("v*"))


def test_a_policy_that_changes_nothing_yet_is_the_base(attempted: Attempted, place: Workplace, calls: Calls) -> None:
    assert is_unchanged(attempted.state(0))
    attempted.rollouts.begin(0, attempted.state(0))
    groups = list(attempted.rollouts.groups(0))
    assert sorted(group.place for group in groups) == [0, 1]
    assert all(len(sample.logprobs) == len(sample.token_ids) > 0 for group in groups for sample in group.samples)
    assert calls.versions == {BASE_VERSION: 6}
    assert not folders(place)


def test_each_round_is_a_version_of_its_own_and_the_one_before_it_goes(
    attempted: Attempted, place: Workplace, calls: Calls, tiny_tokens: ChatTokens
) -> None:
    seen = []
    for number, size in enumerate((0.05, 0.1)):
        attempted.rollouts.begin(number, attempted.state(size))
        groups = {group.place: group for group in attempted.rollouts.groups(number)}
        assert [groups[i].prompt for i in range(2)] == [
            tiny_tokens.prompt(question.prompt) for question in Asked(PROMPTS, RECIPE, 0).questions(number)[::3]
        ]
        [version] = rollout_versions(place)
        assert folders(place) == [version]
        assert calls.versions[version] == 6
        seen.append(version)
    assert seen[0] != seen[1]
    assert seen[0].split("-")[0] == seen[1].split("-")[0], "a job's rollouts share its counter"
    assert place.registry.view().live == BASE_VERSION
    attempted.rollouts.end()
    assert not rollout_versions(place)
    assert not folders(place)


def test_a_round_that_was_broken_off_asks_only_for_what_is_missing(
    attempted: Attempted,
    place: Workplace,
    held: Claim,
    url: str,
    calls: Calls,
    tiny_model: Path,
    tiny_tokens: ChatTokens,
) -> None:
    state = attempted.state(0.05)
    attempted.rollouts.begin(0, state)
    before = {group.place: group for group in attempted.rollouts.groups(0)}
    [version] = rollout_versions(place)
    [kept] = (place.home / "jobs" / held.job_id / "rollouts").iterdir()
    rows = kept.read_text().splitlines()
    kept.write_text("\n".join(rows[:4]) + "\n" + rows[4][:20])  # as a kill leaves it
    again = Attempted(place, held, url, tiny_model, tiny_tokens)
    again.rollouts.begin(0, state)
    assert {group.place: group for group in again.rollouts.groups(0)} == before
    assert calls.versions == {version: 6 + 3}
    assert rollout_versions(place) == [version]


def test_whoever_waits_for_answers_is_told_to_stop_and_of_failures(
    place: Workplace, held: Claim, redis_url: str, tiny_model: Path, tiny_tokens: ChatTokens, calls: Calls
) -> None:
    with stand_in_gateway(redis_url, troubles=(400,), sampler=calls) as url:
        attempted = Attempted(place, held, url, tiny_model, tiny_tokens)
        attempted.rollouts.begin(0, attempted.state(0))
        with pytest.raises(GatewayRefused, match="400"):
            list(attempted.rollouts.groups(0))
    attempted = Attempted(place, held, "http://127.0.0.1:1", tiny_model, tiny_tokens)
    attempted.rollouts.begin(1, attempted.state(0))
    attempted.stop.set()
    with pytest.raises(Stopped):
        list(attempted.rollouts.groups(1))


def test_rounds_go_through_all_prompts_before_any_comes_again() -> None:
    taken = [i for number in range(5) for i in round_prompts(10, 4, number, 0)]
    assert sorted(taken[:10]) == list(range(10)) == sorted(taken[10:])
    assert taken[:10] != taken[10:]
    assert round_prompts(10, 4, 2, 0) == taken[8:12], "the same again for a resumed run"


def test_no_two_questions_of_a_run_have_one_seed() -> None:
    asked = Asked(PROMPTS[:1], RECIPE, 0)
    seeds = [question.seed for number in range(20) for question in asked.questions(number)]
    assert len(set(seeds)) == len(seeds)
