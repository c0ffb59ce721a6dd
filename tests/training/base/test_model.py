"""The shared base: hidden states and heads beside adapters, and who learns when adapters are switched."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig

from tests.training.tiny import add_random_head, make_recipe
from training.algorithms import AdapterRecipe
from training.base.loading import FP32, read_context_tokens
from training.base.model import SharedBase
from training.errors import ModelRefused
from training.examples.batches import Item, make_pass

ITEMS = (Item((256, 5, 9, 40), ((7, 8, 257), (3, 257))), Item((256, 6), ((11, 12, 13, 257),)))
RECIPE = make_recipe().adapter


@pytest.fixture
def base(tiny_model: Path) -> SharedBase:
    return SharedBase(tiny_model, torch.device("cpu"), FP32)


def test_hidden_states_are_those_of_separate_sequences_after_the_last_norm(base: SharedBase, tiny_model: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32, attn_implementation="eager")
    batch = make_pass(ITEMS)
    with torch.no_grad():
        wanted = torch.stack(
            [
                plain(input_ids=torch.tensor([[*item.prompt, *answer]]), output_hidden_states=True).hidden_states[-1][
                    0, -1
                ]
                for item in ITEMS
                for answer in item.answers
            ]
        )
        found = base.hidden(batch, batch.ends())
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_context_is_read_without_loading_the_model(base: SharedBase, tiny_model: Path, tmp_path: Path) -> None:
    assert read_context_tokens(tiny_model) == base.context_tokens == 512
    with pytest.raises(ModelRefused, match="there is no model in"):
        read_context_tokens(tmp_path)


def test_a_base_without_position_embeddings_reads_sequences_of_any_length(tmp_path: Path) -> None:
    BloomConfig().save_pretrained(str(tmp_path))
    assert read_context_tokens(tmp_path) > 1_048_576


def test_ends_are_the_places_of_the_last_tokens() -> None:
    batch = make_pass(ITEMS)
    assert batch.ends().tolist() == [6, 8, 14]
    assert batch.tokens_T[batch.ends()].tolist() == [257, 257, 257]


def test_a_head_reads_its_own_adapters_hidden_states(base: SharedBase) -> None:
    batch = make_pass(ITEMS)
    for name, seed in (("one", 1), ("two", 2)):
        base.add_adapter(name, RECIPE, seed=seed)
        add_random_head(base, name, 3, seed=seed)
        for parameter in base.parameters(name).values():
            torch.nn.init.normal_(parameter, std=0.2)
    values = base.values("one", batch)
    with base.policy("one"):
        by_hand = base.hidden(batch, batch.ends()) @ base.head_parameters("one")["head.weight"].T
    assert values.shape == (3, 3)
    assert torch.equal(values, by_hand)
    assert not torch.allclose(values, base.values("two", batch))


def test_places_are_those_of_the_answers_tokens_in_their_order() -> None:
    batch = make_pass(ITEMS)
    assert torch.equal(batch.tokens_T[batch.places()], batch.targets_S)


def test_a_mean_value_is_that_of_each_answers_tokens(base: SharedBase) -> None:
    base.add_adapter("one", RECIPE, seed=1)
    add_random_head(base, "one", 3, seed=1)
    found = base.mean_values("one", make_pass(ITEMS))
    alone = [make_pass([Item(item.prompt, (answer,))]) for item in ITEMS for answer in item.answers]
    with base.policy("one"):
        means_NH = torch.stack([base.hidden(each, each.places()).mean(dim=0) for each in alone])
    assert found.shape == (3, 3)
    assert torch.allclose(found, means_NH @ base.head_parameters("one")["head.weight"].T, atol=1e-5)


def test_a_head_and_its_adapter_learn_and_nothing_else(base: SharedBase) -> None:
    base.add_adapter("one", RECIPE, seed=1)
    add_random_head(base, "one", seed=1)
    base.add_adapter("two", RECIPE, seed=2)
    add_random_head(base, "two", seed=2)
    base.values("two", make_pass(ITEMS)).sum().backward()
    assert base.head_parameters("two")["head.weight"].grad is not None
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in base.parameters("two").values())
    assert all(p.grad is None for p in [*base.parameters("one").values(), *base.head_parameters("one").values()])
    assert all(p.grad is None for name, p in base._base.named_parameters() if "lora_" not in name)


def test_adapters_that_learn_go_on_learning_after_a_switch_and_frozen_ones_stay_frozen(base: SharedBase) -> None:
    base.add_adapter("one", RECIPE, seed=1)
    base.add_adapter("two", RECIPE, seed=2)
    base.adopt_adapter("fixed", RECIPE, base.adapter_state("one"))
    for name, learns in (("two", True), ("fixed", False), ("one", True), ("two", True)):
        with base.policy(name):
            assert {p.requires_grad for p in base.parameters(name).values()} == {learns}, name


def test_heads_share_the_base_without_a_copy(base: SharedBase) -> None:
    before = {name: p.data_ptr() for name, p in base._base.named_parameters()}
    base.add_adapter("one", RECIPE, seed=1)
    add_random_head(base, "one", seed=1)
    base.values("one", make_pass(ITEMS))
    after = {name.replace(".base_layer", ""): p.data_ptr() for name, p in base._base.named_parameters()}
    assert before.items() <= after.items()
    added = {name for name in after if name not in before}
    assert all("lora_" in name for name in added)


def test_a_head_of_another_width_is_refused(base: SharedBase) -> None:
    base.add_adapter("one", RECIPE, seed=1)
    with pytest.raises(ModelRefused, match="reads 31 values, this base gives 32"):
        base.adopt_head("one", torch.zeros(1, 31))


def test_layers_that_compute_again_keep_less_and_teach_the_same(tiny_model: Path) -> None:
    batch = make_pass(ITEMS)
    kept, gradients = [], []
    for recompute in (False, True):
        base = SharedBase(tiny_model, torch.device("cpu"), recompute=recompute)
        base.add_adapter("policy", make_recipe(adapter={"dropout": 0.3}).adapter, seed=0)
        seen: list[int] = []

        def keep(saved: torch.Tensor, seen: list[int] = seen) -> torch.Tensor:
            seen.append(saved.nbytes)
            return saved

        torch.manual_seed(0)  # dropout
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved), base.policy("policy"):
            logprob_S = base.logprobs(batch)
        logprob_S.sum().backward()
        kept.append(sum(seen))
        gradients.append([each.grad for each in base.parameters("policy").values()])
    assert kept[1] < kept[0] / 4
    assert any(each.any() for each in gradients[0] if each is not None)
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_an_adapter_that_drops_out_may_reach_fewer_layers_than_another(base: SharedBase) -> None:
    base.add_adapter("wide", RECIPE, seed=1)
    narrow = AdapterRecipe(rank=8, alpha=16, dropout=0.5, target_modules=["q_proj"])
    base.add_adapter("narrow", narrow, seed=2)
    assert {name.split(".")[-3] for name in base.parameters("narrow")} == {"q_proj"}
    with base.policy("narrow"):
        base.logprobs(make_pass(ITEMS)).sum().backward()


def test_dropout_falls_where_something_is_learned_only(base: SharedBase) -> None:
    recipe = AdapterRecipe(rank=8, alpha=16, dropout=0.5)
    base.add_adapter("dropping", recipe, seed=0)
    for name, parameter in base.parameters("dropping").items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    base.adopt_adapter("whole", recipe, base.adapter_state("dropping"))
    batch = make_pass([Item((256, 5, 9), ((7, 8, 11), (3,)))])

    def logprobs(name: str) -> torch.Tensor:
        with base.policy(name):
            return base.logprobs(batch).detach()

    learned = logprobs("dropping")
    with torch.no_grad():
        scored = logprobs("dropping")
        torch.testing.assert_close(scored, logprobs("whole"))
    assert (learned - scored).abs().max() > 1e-3
    assert not torch.equal(logprobs("dropping"), learned), "and it falls anew every time"
