"""The only adapter to vLLM: asks for answers, loads and unloads adapters, reads log-probs. Translates its failures.

vLLM listens on loopback and trusts whoever reaches it, so nothing of a caller's goes there unchecked.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from feedback.ids import BASE_VERSION, Version
from serve.answering.events import DONE, split_events
from serve.errors import ApiError, EngineFailed, EngineRefused, EngineUnavailable
from serve.replicas.engine_refusals import refusal
from serve.replicas.engine_wire import EngineWire, WireAnswer, WireFailed

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
_JSON = {"content-type": "application/json"}
# vLLM closes idle connections after 5 s; a request sent at that moment would fail although the engine is well.
_IDLE_CONNECTION_S = 3
_CONNECT_S = 5
_CONTROL = aiohttp.ClientTimeout(total=120, sock_connect=_CONNECT_S)
_GLANCE = aiohttp.ClientTimeout(total=5)


class AdapterNotLoaded(ApiError):
    """The engine does not know the adapter: it was restarted. Never shown: callers get EngineUnavailable."""


class LoadRefused(Exception):
    """The engine would not load an adapter; the message is the engine's."""


@dataclass(frozen=True)
class EngineModels:
    """What the engine serves now: the base under its served name, and adapters by version."""

    base: str
    max_model_len: int
    adapters: frozenset[Version]


class Engine:
    """One vLLM server, between `open` and `close`. Every method raises EngineUnavailable when it does not answer.

    `name` is its host and port: what logs and metrics call it.
    """

    _session: aiohttp.ClientSession

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = url.partition("://")[2]
        self._answers: set[asyncio.Timeout] = set()
        self._is_stopping = False
        self._wire = EngineWire(url)

    def open(self) -> None:
        """Belongs to the running event loop from here on."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_S),
        )

    async def close(self) -> None:
        self._wire.close()
        await self._session.close()

    def hang_up(self) -> None:
        """Ends the running answers with EngineUnavailable, and asks for no more: the gateway is stopping."""
        self._is_stopping = True
        for answer in self._answers:
            answer.reschedule(0)

    async def models(self) -> EngineModels:
        body = await self._call("GET", "/v1/models", within=_GLANCE)
        cards = body["data"]
        base = next(card for card in cards if card.get("parent") is None)
        adapters = frozenset(Version(card["id"]) for card in cards if card.get("parent") is not None)
        return EngineModels(base["id"], int(base.get("max_model_len") or 0), adapters)

    async def is_well(self) -> bool:
        """Whether the engine's core is alive, which /v1/models does not tell."""
        try:
            async with self._session.get(f"{self._url}/health", timeout=_GLANCE) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def load(self, version: Version, directory: Path) -> None:
        """Loads a checked adapter under its version's name. Never in place: that would mix two policies."""
        try:
            await self._call("POST", "/v1/load_lora_adapter", {"lora_name": version, "lora_path": str(directory)})
        except (EngineRefused, EngineFailed, AdapterNotLoaded) as error:
            raise LoadRefused(error.message) from error

    async def unload(self, version: Version) -> None:
        """Forgets an adapter's name; one that is not loaded is no error. Running answers end undisturbed."""
        try:
            await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": version})
        except (EngineRefused, AdapterNotLoaded):
            return

    async def score(self, model: str, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs (nats) of every token of each text but its first, given the tokens before it. One request."""
        body = {"model": model, "prompt": texts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choices = sorted((await self._call("POST", COMPLETION_PATH, body))["choices"], key=lambda c: c["index"])
        return [
            [
                float(row[str(token)]["logprob"])
                for row, token in zip(choice["prompt_logprobs"], text, strict=True)
                if row
            ]
            for choice, text in zip(choices, texts, strict=True)
        ]

    async def tokenize(self, text: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a bare text, or of a chat's messages up to where the next answer begins."""
        if isinstance(text, str):
            body: dict[str, object] = {"prompt": text, "add_special_tokens": False}
        else:
            body = {"messages": text, "add_generation_prompt": True}
        return [int(token) for token in (await self._call("POST", "/tokenize", body))["tokens"]]

    async def count_tokens(self, prompt: Mapping[str, Any]) -> int:
        """Tokens of a prompt as the model reads it: `messages` and `tools`, or `prompt` as text."""
        counted = await self._call("POST", "/tokenize", {**prompt, "model": BASE_VERSION})
        return int(counted["count"])

    async def complete(self, path: str, body: bytes) -> dict[str, Any]:
        """A whole answer. Cancelling closes the connection, upon which vLLM stops generating."""
        async with self._posted(path, body) as response:
            answer: dict[str, Any] = orjson.loads(await response.read())
            return answer

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """The payloads of a streamed answer's events, as many at once as the network brought.

        Leaving the block closes the connection, upon which vLLM stops generating.
        """
        async with self._posted(path, body) as response:
            yield _Payloads(response)

    @asynccontextmanager
    async def _posted(self, path: str, body: bytes) -> AsyncIterator[WireAnswer]:
        try:
            async with self._until_hung_up():
                answer = await self._wire.post(path, body)
                try:
                    if answer.status != 200:
                        raise await self._refusal(answer, path)
                    yield answer
                finally:
                    answer.close()
        except (WireFailed, TimeoutError) as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def _until_hung_up(self) -> AsyncIterator[None]:
        """TimeoutError in it as soon as `hang_up` is called."""
        async with asyncio.timeout(0 if self._is_stopping else None) as answer:
            self._answers.add(answer)
            try:
                yield
            finally:
                self._answers.discard(answer)

    async def _call(
        self, method: str, path: str, body: object = None, *, within: aiohttp.ClientTimeout = _CONTROL
    ) -> Any:
        content = None if body is None else orjson.dumps(body)
        try:
            async with self._session.request(
                method, self._url + path, data=content, headers=_JSON, timeout=within
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response, path)
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        return orjson.loads(raw) if raw.startswith(b"{") else raw

    async def _refusal(self, response: aiohttp.ClientResponse | WireAnswer, path: str) -> ApiError:
        """vLLM's error in ours. Its 500 may mean that its core has died, which only /health tells."""
        message, param = read_error(await response.read())
        if response.status == 404:
            return AdapterNotLoaded(message)
        if 400 <= response.status < 500:
            return refusal(response.status, message, param, chat=path == CHAT_PATH)
        if response.status == 503 or not await self.is_well():
            return EngineUnavailable("the engine is away; the request may be sent again")
        return EngineFailed(f"the engine failed at this request: {message}")

    def _unreachable(self, error: Exception) -> EngineUnavailable:
        if self._is_stopping:
            return EngineUnavailable("this gateway is stopping; send the request again")
        kind = str(error) if isinstance(error, WireFailed) else type(error).__name__
        return EngineUnavailable(f"the engine is away ({kind}); it is being waited for, the request may be sent again")


def read_error(raw: bytes) -> tuple[str, str | None]:
    """Message and field of an error body, in vLLM's shape or in any other."""
    try:
        error = orjson.loads(raw)["error"]
        return str(error["message"]), error.get("param")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace") or "no reason given", None


class _Payloads:
    """No generator: one that is left before its end costs a task to close."""

    def __init__(self, answer: WireAnswer) -> None:
        self._answer = answer
        self._rest = b""

    def __aiter__(self) -> AsyncIterator[list[bytes]]:
        return self

    async def __anext__(self) -> list[bytes]:
        while piece := await self._answer.piece():
            payloads, self._rest = split_events(self._rest + piece)
            if payloads:
                self._answer.nothing_follows = payloads[-1] == DONE
                return payloads
        raise StopAsyncIteration
