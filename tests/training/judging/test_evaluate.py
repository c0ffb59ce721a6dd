"""Measuring answers and votes under the base, against sums worked out one by one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.tiny import make_pairs, make_recipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.examples.batches import Item, make_pass
from training.examples.tokens import ChatTokens
from training.judging.evaluate import Judge, compare_on_votes, count_votes, measure, summarise
from training.judging.gate import Votes
from training.sampling.gateway import Sample

PROMPTS = [({"role": "user", "content": text},) for text in ("Hi", "How are you today?", "Bye")]


@pytest.fixture
def scorer(tiny_model: Path, tiny_tokens: ChatTokens) -> Judge:
    base = SharedBase(tiny_model, torch.device("cpu"), FP32)
    base.add_adapter("draft", make_recipe().adapter, seed=1)
    chance = torch.Generator().manual_seed(2)
    state = base.adapter_state("draft")
    base.set_adapter_state("draft", {n: torch.randn(v.shape, generator=chance) * 0.3 for n, v in state.items()})
    return Judge(base, tiny_tokens, lambda: None)


def make_samples(tokens: ChatTokens) -> list[Sample]:
    whole, empty, cut = tokens.answer("Hello to you"), (tokens.end_id,), tokens.answer("so so so so so so")[:-1]
    return [Sample("Hello to you", whole, "stop"), Sample("", empty, "stop"), Sample("so so so so", cut, "length")]


def test_losses_are_the_bases_and_kl_is_from_draft_to_base(scorer: Judge) -> None:
    samples = make_samples(scorer.tokens)
    found = measure(scorer, "draft", PROMPTS, samples)
    for i, (prompt, sample) in enumerate(zip(PROMPTS, samples, strict=True)):
        batch = make_pass([Item(scorer.tokens.prompt(prompt), (sample.token_ids,))])
        with torch.no_grad():
            with scorer.model.policy(None):
                base = torch.log_softmax(scorer.model.logits(batch), -1)
            with scorer.model.policy("draft"):
                draft = torch.log_softmax(scorer.model.logits(batch), -1)
        wanted = torch.nn.functional.kl_div(base, draft, reduction="sum", log_target=True)
        assert found.kl_nats[i] == pytest.approx(wanted.item(), rel=1e-3)
        assert found.nats[i] == pytest.approx(-base.gather(1, batch.targets_S[:, None]).sum().item(), rel=1e-4)
    assert found.tokens == [len(sample.token_ids) for sample in samples]
    assert found.empty == [0, 1, 0]
    assert found.cut == [0, 0, 1]
    assert found.repeats[2] > 0.5


def test_a_head_that_is_left_to_the_model_gives_the_same(scorer: Judge) -> None:
    samples = make_samples(scorer.tokens)
    by_rows = measure(scorer, "draft", PROMPTS, samples)
    scorer.model._base.config.logit_scale = 2.0  # a setting that no Llama reads
    whole = measure(scorer, "draft", PROMPTS, samples)
    assert whole.kl_nats == pytest.approx(by_rows.kl_nats, rel=1e-4)
    assert whole.nats == pytest.approx(by_rows.nats, rel=1e-4)


def test_the_base_is_at_no_distance_from_itself(scorer: Judge) -> None:
    found = measure(scorer, None, PROMPTS, make_samples(scorer.tokens))
    assert found.kl_nats == [0, 0, 0]
    assert summarise(found)["kl_per_token"] == 0


def test_votes_count_where_the_draft_puts_the_chosen_answer_further_ahead(scorer: Judge) -> None:
    pairs = make_pairs(scorer.tokens, 5)
    wins = 0
    for pair in pairs:
        batch = make_pass([pair.item])
        margins = []
        for policy in ("draft", None):
            with torch.no_grad(), scorer.model.policy(policy):
                chosen, rejected = batch.sum_answers(scorer.model.logprobs(batch)).tolist()
            margins.append(chosen - rejected)
        wins += margins[0] > margins[1]
    votes = compare_on_votes(scorer, "draft", None, pairs)
    assert votes == Votes(n=5, wins=wins, pairs=5, pair_wins=wins)


def test_votes_on_one_question_count_once(scorer: Judge) -> None:
    pairs = [replace(pair, question="the same") for pair in make_pairs(scorer.tokens, 5)]
    votes = compare_on_votes(scorer, "draft", None, pairs)
    assert (votes.n, votes.pairs) == (1, 5)


@pytest.mark.parametrize(
    ("sides", "votes"),
    [
        ({"a": [1, 1, 1, 1, 1]}, Votes(n=1, wins=1, pairs=5, pair_wins=5)),
        ({"a": [1, -1, -1], "b": [1], "c": [-1]}, Votes(n=3, wins=1, pairs=5, pair_wins=2)),
        ({"a": [1, -1], "b": [0], "c": [0, 1]}, Votes(n=1, wins=1, pairs=5, pair_wins=2)),
        ({}, Votes(n=0, wins=0, pairs=0, pair_wins=0)),
    ],
)
def test_a_prompt_counts_by_the_side_that_most_of_its_votes_are_on(sides: dict[str, list[int]], votes: Votes) -> None:
    rows = [(question, side) for question, found in sides.items() for side in found]
    assert count_votes([question for question, _ in rows], [side for _, side in rows]) == votes


def test_a_draft_that_equals_the_live_policy_neither_wins_nor_loses(scorer: Judge) -> None:
    votes = compare_on_votes(scorer, "draft", "draft", make_pairs(scorer.tokens, 5))
    assert votes == Votes(n=0, wins=0, pairs=5, pair_wins=0)


def test_no_held_out_pairs_are_no_votes(scorer: Judge) -> None:
    assert compare_on_votes(scorer, "draft", None, []).n == 0
