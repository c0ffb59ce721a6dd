"""Packing, and that a packed pass with a shared prompt computes what plain separate sequences do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.training.tiny import make_recipe
from training.base.loading import FP32
from training.base.model import SharedBase
from training.errors import ModelRefused
from training.examples.batches import Item, Span, group_steps, make_pass, pack

ITEMS = (
    Item((256, 5, 9, 40), ((7, 8, 257), (3, 257))),
    Item((256, 6), ((11, 12, 13, 14, 257),)),
    Item((256, 1, 2, 3, 4, 5), ((9, 257), (8, 8, 8, 257), (1,))),
)


@pytest.fixture
def base(tiny_model: Path) -> SharedBase:
    return SharedBase(tiny_model, torch.device("cpu"), FP32)


def plain_logprobs(model: object, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Log-probs of one answer by transformers' own attention, one sequence at a time."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]  # type: ignore[operator]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def test_a_packed_pass_gives_the_logprobs_of_separate_sequences(base: SharedBase, tiny_model: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        wanted = torch.cat([plain_logprobs(plain, item.prompt, answer) for item in ITEMS for answer in item.answers])
        found = base.logprobs(make_pass(ITEMS))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_packed_pass_gives_the_logprobs_of_a_padded_batch(base: SharedBase, tiny_model: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32, attn_implementation="sdpa")
    sequences = [(item.prompt, answer) for item in ITEMS for answer in item.answers]
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids_BT, mask_BT = torch.full((len(sequences), longest), 257), torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, (prompt, answer) in enumerate(sequences):
        length = len(prompt) + len(answer)
        ids_BT[row, :length], mask_BT[row, :length] = torch.tensor([*prompt, *answer]), 1
    with torch.no_grad():
        logprobs_BTV = torch.log_softmax(plain(input_ids=ids_BT, attention_mask=mask_BT).logits, -1)
        found = base.logprobs(make_pass(ITEMS))
    wanted = [
        logprobs_BTV[row, len(prompt) - 1 + place, token]
        for row, (prompt, answer) in enumerate(sequences)
        for place, token in enumerate(answer)
    ]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-5)


def test_a_shared_prompt_gathers_the_gradients_of_both_its_answers(base: SharedBase, tiny_model: Path) -> None:
    base.add_adapter("policy", make_recipe().adapter, seed=1)
    parameters = base.parameters("policy")
    together = make_pass(ITEMS[:1])
    apart = make_pass([Item(ITEMS[0].prompt, (answer,)) for answer in ITEMS[0].answers])
    gradients = []
    for batch in (together, apart):
        with base.policy("policy"):
            base.logprobs(batch).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None]))
        for parameter in parameters.values():
            parameter.grad = None
    assert gradients[0].abs().max() > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_a_token_that_is_not_scored_has_gradient_zero(base: SharedBase) -> None:
    batch = make_pass(ITEMS)
    logits = base.logits(batch).requires_grad_()
    of_answer_1 = batch.answer_S == 1
    logprobs = torch.log_softmax(logits, -1).gather(1, batch.targets_S[:, None])[:, 0]
    logprobs[of_answer_1].sum().backward()
    assert logits.grad is not None
    assert logits.grad[~of_answer_1].abs().max() == 0
    assert logits.grad[of_answer_1].abs().max() > 0


def test_answers_to_one_prompt_do_not_see_each_other(base: SharedBase) -> None:
    one = make_pass([Item((256, 5), ((7, 8, 9), (3, 4)))])
    other = make_pass([Item((256, 5), ((70, 80, 90), (3, 4)))])
    with torch.no_grad():
        assert torch.equal(base.logprobs(one)[3:], base.logprobs(other)[3:])


@pytest.mark.parametrize("changed", [0, 1])
def test_an_answer_of_another_length_leaves_the_other_answers_logprob_alone(base: SharedBase, changed: int) -> None:
    answers = [(7, 8, 9), (3, 4)]
    before = make_pass([Item((256, 5), tuple(answers)), Item((256, 6), ((1, 2), (3,)))])
    answers[changed] = (40, 41, 42, 43, 44)
    after = make_pass([Item((256, 5), tuple(answers)), Item((256, 6), ((1, 2), (3,)))])
    with torch.no_grad():
        sums = [each.sum_answers(base.logprobs(each)) for each in (before, after)]
    kept = [i for i in range(4) if i != changed]
    assert torch.allclose(sums[0][kept], sums[1][kept], atol=1e-5)
    assert not torch.isclose(sums[0][changed], sums[1][changed], atol=1e-2)


def test_only_answer_tokens_are_scored_and_each_belongs_to_its_answer() -> None:
    batch = make_pass(ITEMS)
    assert batch.targets_S.tolist() == [token for item in ITEMS for answer in item.answers for token in answer]
    assert batch.sum_answers(torch.ones(len(batch.targets_S))).tolist() == [3, 2, 5, 2, 4, 1]
    assert batch.lengths().tolist() == [3, 2, 5, 2, 4, 1]
    assert [batch.tokens_T[row].item() for row in batch.rows_S[:5]] == [40, 7, 8, 40, 3]


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        make_pass([Item((1, 2), ((),))])


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(50, 400), st.integers(1, 9))
def test_every_item_is_packed_once_and_no_group_is_too_large(lengths: list[int], limit: int, items: int) -> None:
    groups = pack(lengths, limit, items)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= items
        assert len(group) == 1 or sum(lengths[i] for i in group) <= limit


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 20))
def test_steps_cover_all_passes_in_order_and_hold_enough_pairs(sizes: list[int], least: int) -> None:
    steps = group_steps(sizes, least)
    assert [i for start, end in steps for i in range(start, end)] == list(range(len(sizes)))
    assert all(sum(sizes[start:end]) >= least for start, end in steps[:-1])


def test_a_pair_longer_than_the_attention_window_is_refused(base: SharedBase) -> None:
    from training.base.attention import shared_prompt_attention

    batch = make_pass(ITEMS[:1])
    heads = torch.zeros(1, 4, len(batch.tokens_T), 8)
    with pytest.raises(ModelRefused, match="max_example_tokens"):
        shared_prompt_attention(torch.nn.Identity(), heads, heads, heads, None, spans=batch.spans, sliding_window=4)


@pytest.mark.parametrize(("own", "what"), [({"softcap": 50.0}, "caps"), ({"s_aux": torch.zeros(4)}, "sinks")])
def test_attention_that_training_does_not_compute_is_refused(own: dict[str, Any], what: str) -> None:
    from training.base.attention import shared_prompt_attention

    heads = torch.zeros(1, 4, 3, 8)
    with pytest.raises(ModelRefused, match=what):
        shared_prompt_attention(torch.nn.Identity(), heads, heads, heads, None, spans=(Span(0, 1, (2,)),), **own)
