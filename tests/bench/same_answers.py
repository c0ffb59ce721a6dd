"""`make check-answers`: seeded greedy requests, one at a time, through the gateway and straight to the engine.

Text, finish_reason and usage must be the same; ends with a JSON line. A pair of requests is the same for both but for
the model's name and the salt under which the engine caches prompts, so that both find it in the same state.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.services import ROOT, start_engine, start_gateway, start_redis

ENGINE_MODEL = "v0000-base"
STARTS = ("Name", "Explain", "Describe", "What is", "Write a line about", "Why do people like", "Compare")
THINGS = ("rivers", "the moon", "a small red boat", "2 + 3", "Käse", "an old clock", "green tea", "snow", "a long walk")


def requests(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and bodies, always the same ones."""
    rng = random.Random(20261)
    for number in range(count):
        chat = rng.random() < 0.7
        question = f"{rng.choice(STARTS)} {rng.choice(THINGS)} and {rng.choice(THINGS)} ({number})."
        body: dict[str, Any] = {"temperature": 0, "seed": number, "max_tokens": rng.randint(4, 20)}
        if chat:
            content = [{"type": "text", "text": question}] if rng.random() < 0.3 else question
            system = [{"role": "system", "content": "Answer in one sentence."}] if rng.random() < 0.4 else []
            body["messages"] = [*system, {"role": "user", "content": content}]
        else:
            body["prompt"] = question
        if rng.random() < 0.2:
            body["stop"] = rng.choice((["."], "\n", [",", "the"]))
        if rng.random() < 0.2:
            body |= {"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}
        if rng.random() < 0.1:
            body["response_format"] = {"type": "json_object"}
        if rng.random() < 0.4:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        yield ("/v1/chat/completions" if chat else "/v1/completions"), body


def read(answer: httpx.Response) -> dict[str, Any]:
    """What of an answer must be the same, streamed or whole."""
    answer.raise_for_status()
    if not answer.headers["content-type"].startswith("text/event-stream"):
        body = answer.json()
        choice = body["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return {"text": text, "finish_reason": choice["finish_reason"], "usage": _counts(body["usage"])}
    events = [json.loads(block[6:]) for block in answer.text.split("\n\n") if block not in ("", "data: [DONE]")]
    parts = [choice for event in events for choice in event["choices"]]
    return {
        "text": "".join(part.get("text") or part.get("delta", {}).get("content") or "" for part in parts),
        "finish_reason": next(part["finish_reason"] for part in parts if part["finish_reason"]),
        "usage": _counts(events[-1]["usage"]),
    }


def _counts(usage: dict[str, Any]) -> list[int]:
    return [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]


def compare(gateway: httpx.Client, engine: httpx.Client, count: int) -> list[str]:
    """One sentence for each request whose answers differ."""
    differences = []
    for path, body in requests(count):
        ours = read(gateway.post(path, json={**body, "model": "burnish"}))
        theirs = read(engine.post(path, json={**body, "model": ENGINE_MODEL, "cache_salt": "straight"}))
        if ours != theirs:
            differences.append(f"{body['seed']}: {ours} through the gateway, {theirs} straight")
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "model")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        start_redis(Path(name) / "redis") as redis_url,
        start_engine(Path(name) / "engine", args.model) as engine,
        start_gateway(Path(name) / "home", redis_url, engine.url, model=args.model) as gateway,
        httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=120) as through,
        httpx.Client(base_url=engine.url, timeout=120) as straight,
    ):
        differences = compare(through, straight, args.count)
    for difference in differences[:20]:
        print(difference)
    print(json.dumps({"requests": args.count, "different": len(differences)}))


if __name__ == "__main__":
    main()
