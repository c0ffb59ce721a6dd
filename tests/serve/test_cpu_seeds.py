"""Seeded requests whose prompt is read in several steps: the engine lives, and the seed means what it says."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import torch

from serve.cpu_seeds import repair
from tests.services import Engine


class Runner:
    """As much of vLLM's runner as the repair touches: row 0 is still reading its prompt, row 1 is not."""

    def __init__(self) -> None:
        generators = {row: torch.Generator().manual_seed(7) for row in (0, 1)}
        self.input_batch = SimpleNamespace(num_reqs=2, generators=generators)
        self.discard_request_mask = SimpleNamespace(np=np.array([True, False, True]))

    def _sample(self) -> list[float]:
        return [float(torch.rand(1, generator=each)) for each in self.input_batch.generators.values()]

    def _bookkeeping_sync(self) -> None:
        for row, discarded in enumerate(self.discard_request_mask.np[:2]):
            generator = self.input_batch.generators.get(row)
            if discarded and generator is not None:
                generator.set_offset(generator.get_offset() - 4)


def test_a_draw_that_does_not_count_is_taken_back_and_one_that_counts_is_not() -> None:
    class Repaired(Runner):
        pass

    repair(Repaired)
    runner: Any = Repaired()
    first = runner._sample()
    runner._bookkeeping_sync()
    runner.discard_request_mask.np[:] = False
    second = runner._sample()
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert set(runner.input_batch.generators) == {0, 1}


def test_long_seeded_prompts_at_once_do_not_kill_the_engine_and_a_seed_gives_the_same_answer_again(
    engine: Engine,
) -> None:
    def ask(number: int) -> str:
        # Longer than one step of the engine reads, so that every prompt is cut.
        story = f"Story {number}: " + "the fox went round the hill and met another fox. " * 100
        body = {"model": "v0000-base", "prompt": story, "max_tokens": 12, "temperature": 1.0, "seed": number}
        answer = httpx.post(f"{engine.url}/v1/completions", json=body, timeout=240)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(ask, range(4)))) == 4
    assert ask(9) == ask(9)
