"""The plugin for adapters on the CPU: its products against a naive reference, and mixed batches on a real engine."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from serve.cpu_lora import FP32_ROWS, GroupedLora, PackedStacks, group_rows, reason_to_stay_off
from tests.adapters import make_adapter
from tests.serve import reference
from tests.serve.one_batch import ADAPTER_NOISE, BASE, BASE_NOISE, Job, loaded, score_together, tokenize
from tests.services import ROOT, Engine, start_engine

N_SLOTS, RANK = 3, 8

SENTENCES = (
    "The history of the village begins with a river and a mill that stood beside it.",
    "Water boils at one hundred degrees at sea level, and earlier on a mountain.",
    "Once upon a time a small fox wanted to learn how to swim across the lake.",
    "To make bread you need flour, water, salt, yeast and some patience.",
    "The train to the coast leaves at nine and takes about three hours.",
    "She opened the old box and found a letter that nobody had ever read.",
    "A good map shows where places lie and how far they are from each other.",
    "In winter the lake freezes, and the children skate to school.",
)


class StockWrapper:
    """The part of vLLM's wrapper that holds which row uses which slot."""

    def __init__(self, token_slots: Sequence[int], sampler_slots: Sequence[int]) -> None:
        self.token_lora_indices = torch.tensor(token_slots)
        self.sampler_indices = torch.tensor(sampler_slots)

    def update_metadata(self, mapping: Any, lora_index_to_id: Any, max_loras: int, vocab_size: int) -> None:
        pass

    def add_shrink(self, y: Any, x: Any, lora_a_stacked: Any, scale: float) -> None:
        pass

    def add_expand(
        self, y: Any, x: Any, lora_b_stacked: Any, output_slices: Any, offset_start: int, add_inputs: bool
    ) -> None:
        pass

    def add_lora_embedding(self, y: Any, x: Any, lora_b_stacked: Any, add_inputs: bool) -> None:
        pass

    def add_lora_linear(
        self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, output_slices: Any
    ) -> None:
        pass

    def add_lora_logits(self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float) -> None:
        pass


class Wrapper(GroupedLora, StockWrapper):
    """The plugin's methods over that."""


def make_wrapper(token_slots: Sequence[int], sampler_slots: Sequence[int] = ()) -> Wrapper:
    wrapper = Wrapper(token_slots, sampler_slots)
    wrapper.update_metadata(None, [], N_SLOTS, 100)
    return wrapper


def make_stacks(n_in: int, widths: Sequence[int], dtype: torch.dtype, rank: int = RANK) -> tuple[Any, Any]:
    """Stacks as vLLM keeps them: (slots, 1, rank, inputs) and (slots, 1, outputs, rank) for each slice."""
    generator = torch.Generator().manual_seed(n_in + sum(widths))
    stacks_a = tuple(torch.randn(N_SLOTS, 1, rank, n_in, generator=generator).to(dtype) / n_in**0.5 for _ in widths)
    stacks_b = tuple(torch.randn(N_SLOTS, 1, width, rank, generator=generator).to(dtype) for width in widths)
    return stacks_a, stacks_b


def naive(y_TO: Tensor, x_TI: Tensor, stacks_a: Any, stacks_b: Any, slots: Sequence[int], scale: float = 1.0) -> Tensor:
    """Row by row in fp64."""
    wanted, pairs = y_TO.double().clone(), list(zip(stacks_a, stacks_b, strict=True))
    for row, slot in enumerate(slots):
        if slot < 0:
            continue
        deltas = [b[slot, 0].double() @ (a[slot, 0].double() @ x_TI[row].double()) for a, b in pairs]
        wanted[row, : sum(map(len, deltas))] += scale * torch.cat(deltas)
    return wanted


def assert_near(y_TO: Tensor, wanted: Tensor) -> None:
    """Equal but for sums in y's precision."""
    rtol, atol = (0.02, 0.06) if y_TO.dtype == torch.bfloat16 else (1e-4, 1e-5)
    torch.testing.assert_close(y_TO.double(), wanted, rtol=rtol, atol=atol)


MIXES = {
    "no adapter": [-1] * 6,
    "one for all": [1] * 6,
    "one token": [2],
    "ranges": [-1, -1, 0, 0, 2, 2, 2],
    "scattered": [0, -1, 2, 0, -1, 1, 2],
    "last slot and none": [N_SLOTS - 1, -1, N_SLOTS - 1, -1],
    "many": [0, 1, -1, 2] * (FP32_ROWS + 4),
    "many in ranges": [0] * (FP32_ROWS + 1) + [-1] * 5 + [2] * (FP32_ROWS + 9),
}


@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES.keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_row_gets_its_own_adapter_and_rows_without_one_are_untouched(
    slots: list[int], dtype: torch.dtype
) -> None:
    stacks_a, stacks_b = make_stacks(24, (16, 8, 8), dtype)
    x, y = torch.randn(len(slots), 24).to(dtype), torch.randn(len(slots), 32).to(dtype)
    wanted, before = naive(y, x, stacks_a, stacks_b, slots), y.clone()
    make_wrapper(slots).add_lora_linear(y, x, stacks_a, stacks_b, 1.0, (16, 8, 8))
    bare = torch.tensor(slots) < 0
    assert torch.equal(y[bare], before[bare])
    assert_near(y, wanted)


def test_a_scale_multiplies_the_change() -> None:
    stacks_a, stacks_b = make_stacks(24, (16,), torch.float32)
    for n_rows in (3, FP32_ROWS + 5):
        x, y = torch.randn(n_rows, 24), torch.randn(n_rows, 16)
        wanted = naive(y, x, stacks_a, stacks_b, [1] * n_rows, scale=0.25)
        make_wrapper([1] * n_rows).add_lora_linear(y, x, stacks_a, stacks_b, 0.25, (16,))
        assert_near(y, wanted)


def test_logits_are_grouped_by_the_sampled_tokens_and_may_be_padded() -> None:
    (stack_a,), (stack_b,) = make_stacks(24, (50,), torch.float32)
    x, y = torch.randn(3, 24), torch.randn(3, 64)
    wanted = naive(y, x, (stack_a,), (stack_b,), [-1, 2, 0])
    make_wrapper([-1] * 4 + [2] * 3 + [0], [-1, 2, 0]).add_lora_logits(y, x, stack_a, stack_b, 1.0)
    assert_near(y, wanted)


@pytest.mark.parametrize(("sampler_slots", "slot"), [([1, 1], 1), ([-1, -1], -1), ([1, -1], -1), ([0, 1], -1)])
def test_a_prompts_log_probs_take_an_lm_head_adapter_only_when_the_batch_has_one(
    sampler_slots: list[int], slot: int
) -> None:
    (stack_a,), (stack_b,) = make_stacks(24, (50,), torch.float32)
    x, y = torch.randn(7, 24), torch.randn(7, 50)
    wanted = naive(y, x, (stack_a,), (stack_b,), [slot] * 7)
    make_wrapper([0] * 9, sampler_slots).add_lora_logits(y, x, stack_a, stack_b, 1.0)
    assert_near(y, wanted)


@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES.keys())
def test_embeddings_are_expanded_row_by_row(slots: list[int]) -> None:
    _, (stack_b,) = make_stacks(4, (16,), torch.float32)
    looked_up, y = torch.randn(len(slots), RANK), torch.randn(len(slots), 16)
    wanted = y.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            wanted[row] += stack_b[slot, 0] @ looked_up[row]
    make_wrapper(slots).add_lora_embedding(y, looked_up, stack_b, add_input=True)
    torch.testing.assert_close(y, wanted)


def test_shrink_and_expand_called_by_themselves_do_the_same() -> None:
    slots = MIXES["scattered"]
    stacks_a, stacks_b = make_stacks(24, (16, 8), torch.float32)
    x, y = torch.randn(len(slots), 24), torch.randn(len(slots), 24)
    wanted = naive(y, x, stacks_a, stacks_b, slots, scale=0.5)
    wrapper, shrunk = make_wrapper(slots), torch.zeros(2, len(slots), RANK)
    wrapper.add_shrink(shrunk, x, stacks_a, 0.5)
    wrapper.add_expand(y, shrunk, stacks_b, (16, 8))
    assert_near(y, wanted)


@pytest.mark.parametrize("counts_writes", [True, False])
def test_a_slot_written_again_is_packed_again(counts_writes: bool) -> None:
    with torch.inference_mode(not counts_writes):
        stacks_a, stacks_b = make_stacks(24, (16,), torch.float32)
        wrapper, x = make_wrapper([1, -1]), torch.randn(2, 24)
        for _ in range(2):
            stacks_a[0][1, 0, :2].copy_(torch.randn(2, 24))
            stacks_b[0][1] *= 2
            y = torch.zeros(2, 16)
            wanted = naive(y, x, stacks_a, stacks_b, [1, -1])
            wrapper.add_lora_linear(y, x, stacks_a, stacks_b, 1.0, (16,))
            assert_near(y, wanted)


def test_ranks_an_adapter_does_not_use_cost_nothing() -> None:
    stacks_a, stacks_b = make_stacks(24, (16, 8), torch.float32, rank=32)
    for stack in stacks_a:
        stack[0, 0, 4:] = 0
    for stack in (*stacks_a, *stacks_b):
        stack[1] = 0
    packs = PackedStacks()
    small = packs.get(stacks_a, stacks_b, 0, torch.float32)
    assert small is not None
    assert small.a_IR.shape == (24, 2 * 4)
    assert packs.get(stacks_a, stacks_b, 1, torch.float32) is None
    assert packs.get(stacks_a, stacks_b, 0, torch.float32) is small


@pytest.mark.slow
@pytest.mark.skipif("avx512_bf16" not in Path("/proc/cpuinfo").read_text(), reason="this CPU has no bf16 products")
def test_products_of_vllms_own_kernels_are_right_at_any_number_of_rows() -> None:
    command = [sys.executable, "-m", "tests.serve.packed_errors"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert None not in found
    assert max(error for each in found for error in each.values()) < 0.01  # bf16 keeps eight bits


def test_rows_that_follow_each_other_are_taken_as_a_range() -> None:
    ranged, scattered = group_rows(torch.tensor([2, -1, 0, 0, 2]))
    assert (ranged.slot, ranged.rows) == (0, slice(2, 4))
    assert isinstance(scattered.rows, Tensor)
    assert (scattered.slot, scattered.rows.tolist()) == (2, [0, 4])


class RenamedParameter(StockWrapper):
    def add_lora_linear(self, output: Tensor, **_: Any) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("wrapper", "is_cpu", "setting", "reason"),
    [
        (StockWrapper, True, "off", "BURNISH_CPU_LORA is off"),
        (StockWrapper, False, "on", "not run on the CPU"),
        (RenamedParameter, True, "on", "RenamedParameter changed shape: add_lora_linear"),
        (object, True, "on", "changed shape: update_metadata, add_shrink"),
    ],
)
def test_it_leaves_vllm_alone_and_says_why(wrapper: type, is_cpu: bool, setting: str, reason: str) -> None:
    assert reason in str(reason_to_stay_off(wrapper, is_cpu=is_cpu, setting=setting))


# On the real engine. Stock vLLM gives base requests the adapter of the last slot, so every slot is filled.


@pytest.fixture(scope="module")
def adapters(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As many adapters as the engine has slots, by name."""
    folder = tmp_path_factory.mktemp("adapters")
    return {f"mixed-{seed}": make_adapter(folder / str(seed), model_dir, seed=seed, scale=0.3) for seed in range(6)}


@pytest.fixture(scope="module")
def mixing_engine(engine: Engine, adapters: dict[str, Path]) -> Iterator[str]:
    with loaded(engine.url, adapters):
        yield engine.url


def distances(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[float]:
    """The largest distance in each request, in nats."""
    return [max(abs(x - y) for x, y in zip(*pair, strict=True)) for pair in zip(some, others, strict=True)]


def mean_distance(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Nats per token."""
    pairs = [pair for lists in zip(some, others, strict=True) for pair in zip(*lists, strict=True)]
    return sum(abs(x - y) for x, y in pairs) / len(pairs)


def test_base_requests_among_adapters_score_as_in_an_all_base_batch(
    mixing_engine: str, adapters: dict[str, Path]
) -> None:
    prompts = tokenize(mixing_engine, SENTENCES * 2)
    models = [BASE if n % 2 else list(adapters)[n // 2 % len(adapters)] for n in range(len(prompts))]
    alone = score_together(mixing_engine, [Job(BASE, prompt) for prompt in prompts])
    mixed = score_together(mixing_engine, [Job(*job) for job in zip(models, prompts, strict=True)])
    moved = distances(alone, mixed)
    assert max(moved[1::2]) <= BASE_NOISE
    assert min(moved[::2]) > 10 * BASE_NOISE, "the adapters change too little for this test to mean anything"


def test_every_adapter_in_a_mixed_batch_scores_as_in_a_batch_of_its_own(
    mixing_engine: str, adapters: dict[str, Path]
) -> None:
    prompts = tokenize(mixing_engine, SENTENCES)
    first, *_, last = adapters
    models = [*adapters, BASE, BASE]
    mixed = score_together(mixing_engine, [Job(*job) for job in zip(models, prompts, strict=True)])
    for name in (first, last):
        alone = score_together(mixing_engine, [Job(name, prompt) for prompt in prompts])
        n = models.index(name)
        assert distances([alone[n]], [mixed[n]])[0] <= ADAPTER_NOISE


def test_an_adapter_scores_as_transformers_does_with_its_product_added(
    mixing_engine: str, adapters: dict[str, Path], model_dir: Path
) -> None:
    name, directory = next(iter(adapters.items()))
    prompts = tokenize(mixing_engine, SENTENCES[:2])
    found = score_together(mixing_engine, [Job(name, prompt) for prompt in prompts])
    wanted = [reference.logprobs(model_dir, prompt, 1, directory) for prompt in prompts]
    base = [reference.logprobs(model_dir, prompt, 1) for prompt in prompts]
    # In bf16 even the base is some 0.05 nats a token from fp32.
    assert mean_distance(found, wanted) < 0.2 * mean_distance(base, wanted)


@pytest.mark.engine
def test_the_check_fails_with_the_plugin_off(model_dir: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    two = dict(list(adapters.items())[:2])
    with (
        start_engine(tmp_path, model_dir, BURNISH_CPU_LORA="off", BURNISH_ENGINE_MAX_LORAS="2") as stock,
        loaded(stock.url, two),
    ):
        prompts = tokenize(stock.url, SENTENCES)
        models = [BASE if n % 2 else list(two)[n // 2 % 2] for n in range(len(prompts))]
        alone = score_together(stock.url, [Job(BASE, prompt) for prompt in prompts])
        mixed = score_together(stock.url, [Job(*job) for job in zip(models, prompts, strict=True)])
        log = (tmp_path / "logs" / "engine.log").read_text()
    assert min(distances(alone, mixed)[1::2]) > BASE_NOISE
    told = [line for line in log.splitlines() if "burnish_cpu_lora" in line]
    assert len(told) == 1, log[-3000:]
    assert told[0].endswith("burnish_cpu_lora stays off: BURNISH_CPU_LORA is off")
