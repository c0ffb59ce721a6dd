"""A running Burnish as the demo uses it: the public API through the `openai` client, the operator calls over HTTP."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.demo.taste import Seen

MAX_TOKENS = 128
TEMPERATURE = 0.7
BREVITY = " Answer in two or three sentences."
"""What the simulated user adds to every question."""


@dataclass(frozen=True)
class Turn:
    """An answer with its id, the version that gave it, and how it looks to the user."""

    id: str
    version: str
    seen: Seen


class Burnish:
    """Talks to one gateway: with the page's key to chat and vote, with the operator's to watch."""

    def __init__(self, url: str, home: Path) -> None:
        self._user = AsyncOpenAI(base_url=f"{url}/v1", api_key=_key(home, "page"), timeout=600, max_retries=2)
        self._http = httpx.AsyncClient(base_url=url, timeout=600)
        self._vote_headers = {"Authorization": f"Bearer {_key(home, 'page')}"}
        self._operator_headers = {"Authorization": f"Bearer {_key(home, 'operator')}"}

    async def ask(self, question: str, *, model: str = "burnish", compare_with: str | None = None) -> Turn:
        """One answer; the second one to the same question when `compare_with` names the first."""
        answer = await self._user.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question + BREVITY}],
            max_tokens=MAX_TOKENS,
            temperature=TEMPERATURE,
            user="simulated",
            metadata={"compare_with": compare_with} if compare_with else {},
        )
        choice = answer.choices[0]
        seen = Seen(choice.message.content or "", choice.finish_reason == "stop")
        return Turn(answer.id, answer.model.split("@")[-1], seen)

    async def stream(self, question: str) -> Turn:
        """A streamed answer with its log-probs kept; ConnectionError when it does not come to its end."""
        text, finish, turn_id, version = "", None, "", ""
        stream = await self._user.chat.completions.create(
            model="burnish",
            messages=[{"role": "user", "content": question + BREVITY}],
            max_tokens=MAX_TOKENS,
            temperature=TEMPERATURE,
            logprobs=True,
            user="simulated",
            stream=True,
        )
        async for chunk in stream:
            turn_id, version = chunk.id, chunk.model.split("@")[-1]
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        if finish is None:
            raise ConnectionError(f"the answer {turn_id} was cut")
        return Turn(turn_id, version, Seen(text, finish == "stop"))

    async def vote(self, first: Turn, second: Turn, verdict: str) -> None:
        """Says which of two answers is better; repeated under one idempotency key until it is accepted."""
        body = {
            "kind": "comparison",
            "turn_ids": [first.id, second.id],
            "verdict": verdict,
            "user": "simulated",
            "source": "simulated",
            "shown": {"left": first.id, "mode": "regenerate"},
        }
        headers = {**self._vote_headers, "Idempotency-Key": f"demo-{first.id}-{second.id}"}
        for _ in range(60):
            answer = await self._http.post("/v1/feedback", json=body, headers=headers)
            if answer.status_code in (200, 201):
                return
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                raise RuntimeError(f"a vote was refused: {answer.status_code} {answer.text}")
            await asyncio.sleep(1)
        raise RuntimeError("votes were not accepted for a minute; is Redis up?")

    async def operator(self, path: str) -> dict[str, Any]:
        """What an operator's GET answers."""
        answer = await self._http.get(path, headers=self._operator_headers)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    async def tokens(self, turn: Turn) -> dict[str, Any]:
        """The turn as the ledger keeps it, with its token ids and log-probs."""
        answer = await self._http.get(f"/v1/turns/{turn.id}", headers=self._vote_headers)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    async def score(self, kept: dict[str, Any], version: str) -> list[float]:
        """Log-probs (nats) of an answer's tokens under a version, all given to it as a prompt."""
        prompt, answer = kept["prompt_token_ids"], kept["token_ids"]
        body = {
            "model": f"burnish@{version}",
            "prompt": [*prompt, *answer],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            "store": False,
        }
        reply = await self._http.post("/v1/completions", json=body, headers=self._operator_headers)
        reply.raise_for_status()
        rows: Sequence[dict[str, Any]] = reply.json()["choices"][0]["prompt_logprobs"][len(prompt) :]
        return [float(row[str(token)]["logprob"]) for row, token in zip(rows, answer, strict=True)]

    async def close(self) -> None:
        await self._user.close()
        await self._http.aclose()


def _key(home: Path, name: str) -> str:
    path = home / f"{name}.key"
    if not path.exists():
        raise SystemExit(f"{path} is not there: start Burnish with `make up`, and use the same BURNISH_HOME here")
    return path.read_text(encoding="utf-8").strip()


def from_environment() -> Burnish:
    """The Burnish that BURNISH_HOME and BURNISH_GATEWAY_PORT (or _URL) name."""
    port = os.environ.get("BURNISH_GATEWAY_PORT", "8000")
    url = os.environ.get("BURNISH_GATEWAY_URL", f"http://127.0.0.1:{port}")
    return Burnish(url.rstrip("/"), Path(os.environ.get("BURNISH_HOME", ".burnish")))
