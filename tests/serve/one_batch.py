"""Scoring requests of several models in one and the same step of a real engine, which is checked, not hoped for.

While the engine computes one long prompt, the requests arrive and wait; the next step takes them all. Its counter of
steps then says whether it was one step.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from serve.launch import CPU_STEP_TOKENS

BASE = "v0000-base"
# Nats. All-base and mixed batches of one shape do the same sums for a base request; an adapter's sums may be grouped
# in another way, in bf16.
BASE_NOISE, ADAPTER_NOISE = 0.02, 0.15
PLUG_TOKENS = 3 * CPU_STEP_TOKENS  # full steps: nothing else goes into them
HEAD_START_S = 0.15
TRIES = 10


@dataclass(frozen=True)
class Job:
    """A prompt to score under a model."""

    model: str
    token_ids: Sequence[int]


@contextmanager
def loaded(url: str, adapters: Mapping[str, Path]) -> Iterator[None]:
    """Adapters by name, loaded while the block runs."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for name, directory in adapters.items():
            body = {"lora_name": name, "lora_path": str(directory)}
            client.post("/v1/load_lora_adapter", json=body).raise_for_status()
        yield
        for name in adapters:
            client.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()


def tokenize(url: str, texts: Sequence[str]) -> list[list[int]]:
    with httpx.Client(base_url=url, timeout=60) as client:
        return [client.post("/tokenize", json={"model": BASE, "prompt": text}).json()["tokens"] for text in texts]


def score_together(url: str, jobs: Sequence[Job]) -> list[list[float]]:
    """Log-probs (nats) of each job's tokens but the first, all computed in one step. AssertionError if none was."""
    with (
        httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as client,
        ThreadPoolExecutor(len(jobs) + 1) as pool,
    ):
        for attempt in range(TRIES):
            before = _steps(client)
            plug = pool.submit(_score, client, Job(BASE, range(1000 + attempt, 1000 + attempt + PLUG_TOKENS)))
            time.sleep(HEAD_START_S)
            waiting = []
            for job in jobs:  # in order: rows of a batch follow their arrival
                waiting.append(pool.submit(_score, client, job))
                time.sleep(0.01)
            scores = [future.result() for future in waiting]
            plug.result()
            if _steps(client) - before == 2:  # those that only read a part of the plug do not count
                return scores
    raise AssertionError(f"{len(jobs)} requests never fell into one step in {TRIES} tries")


def _score(client: httpx.Client, job: Job) -> list[float]:
    body = {"model": job.model, "prompt": list(job.token_ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    response = client.post("/v1/completions", json=body)
    response.raise_for_status()
    given = response.json()["choices"][0]["prompt_logprobs"][1:]
    return [row[str(token)]["logprob"] for row, token in zip(given, job.token_ids[1:], strict=True)]


def _steps(client: httpx.Client) -> float:
    """Steps computed so far, once the engine has nothing left to do."""
    while _gauge(client, "vllm:num_requests_running"):
        time.sleep(0.02)
    return _gauge(client, "vllm:iteration_tokens_total_count")


def _gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))
