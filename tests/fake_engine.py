"""A stand-in for vLLM, for failures that the real one cannot be made to have on demand: cuts, stalls, errors.

Speaks the part of vLLM's HTTP that the gateway uses. Runs on a thread of its own; `behaviour` may be changed at any
time. `held` streams stop before their first token until it is taken back.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from aiohttp import web

BASE = "v0000-base"
MAX_MODEL_LEN = 2048
CREATED = 1_767_225_600
"""The same in every event of an answer, as vLLM has it."""
PROMPT = [1, 2, 3]
"""The tokens of any prompt; an answer's are the places of its words."""
WORDS = ("the", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".")


@dataclass(frozen=True)
class Behaviour:
    """`cut_after` and `error_after` count events of one answer; `delay_s` is the pause before each event.

    `shift` is what its log-probs of adapters differ by from those of a fake that is well, `broken` the one model that
    fails, `silent` the one that says nothing; `words` is what a model says in place of WORDS, to its end. `deaf`:
    adapters are loaded and change nothing.
    """

    delay_s: float = 0.0
    shift: float = 0.0
    broken: str | None = None
    silent: str | None = None
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cut_after: int | None = None
    error_after: int | None = None
    status: int = 200
    refuse_load: bool = False
    refuse_unload: bool = False
    away: bool = False
    deaf: bool = False


@dataclass
class FakeEngine:
    port: int = 0
    behaviour: Behaviour = Behaviour()
    adapters: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    held: bool = False
    running: int = 0
    aborted: int = 0
    counted: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def behave(self, **changes: Any) -> None:
        self.behaviour = replace(self.behaviour, **changes)

    def restart(self) -> None:
        """Forgets every adapter, as vLLM does."""
        self.adapters.clear()

    # What it answers ---------------------------------------------------------------------------------------------
    async def models(self, request: web.Request) -> web.Response:
        self._be_there(request)
        base = {"id": BASE, "object": "model", "parent": None, "root": "/model", "max_model_len": MAX_MODEL_LEN}
        cards = [{"id": name, "object": "model", "parent": BASE, "root": path} for name, path in self.adapters.items()]
        return web.json_response({"object": "list", "data": [base, *cards]})

    async def health(self, request: web.Request) -> web.Response:
        self._be_there(request)
        return web.Response(status=200)

    async def load(self, request: web.Request) -> web.Response:
        self._be_there(request)
        body = await request.json()
        self.loads.append(body["lora_name"])
        if self.behaviour.refuse_load:
            return _error(500, "the engine would not have it")
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        self._be_there(request)
        name = (await request.json())["lora_name"]
        self.unloads.append(name)
        if self.behaviour.refuse_unload:
            return _error(500, "the engine would keep it")
        if self.adapters.pop(name, None) is None:
            return _error(404, "cannot be found")
        return web.Response(text="Success")

    async def tokenize(self, request: web.Request) -> web.Response:
        self._be_there(request)
        self.counted += 1
        text = str((await request.json()).get("prompt", "a question and where its answer begins"))
        return web.json_response({"count": 3, "tokens": [1 + len(word) for word in text.split()]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._be_there(request)
        body = orjson.loads(await request.read())
        if body["model"] != BASE and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if "prompt_logprobs" in body and _is_list_of_texts(body.get("prompt")):
            await asyncio.sleep(self.behaviour.delay_s)
            if any(len(text) + body["max_tokens"] > MAX_MODEL_LEN for text in body["prompt"]):
                return _error(400, f"the context is {MAX_MODEL_LEN} tokens long")
            asked = {**body, "model": BASE} if self.behaviour.deaf else body
            return web.json_response(_scored(asked, self.behaviour.shift))
        self.bodies.append(body)
        if self.behaviour.status != 200:
            return _error(self.behaviour.status, "made to fail")
        if body["model"] == self.behaviour.broken:
            return _error(500, "made to fail")
        if body["model"] == self.behaviour.silent:
            return web.json_response(_whole({**body, "n": 1}, request.path.endswith("/chat/completions"), words=("",)))
        self.running += 1
        try:
            chat = request.path.endswith("/chat/completions")
            if body.get("stream"):
                return await self._stream(request, body, chat)
            await asyncio.sleep(self.behaviour.delay_s * len(WORDS))
            return web.json_response(_whole(body, chat, self._words(body)))
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any], chat: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        count = 0
        broken = {"message": "made to fail", "type": "InternalServerError", "code": 500}
        async for event in self._events(body, chat):
            if count == self.behaviour.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if count == self.behaviour.error_after:
                await response.write(b"data: " + orjson.dumps({"error": broken}) + b"\n\n")
                break
            await response.write(b"data: " + event + b"\n\n")
            count += 1
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _events(self, body: dict[str, Any], chat: bool) -> AsyncIterator[bytes]:
        n, first, words = body.get("n", 1), _spoken(body), self._words(body)
        end = min(first + (body.get("max_tokens") or len(words)), len(words))
        reason = "stop" if body["model"] in self.behaviour.words else "length"
        if chat:
            for index in range(n):
                choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                yield _chunk(body, chat, choice, prompt_token_ids=PROMPT, prompt_text=None)
        for position in range(first, end):
            for index in range(n):
                await asyncio.sleep(self.behaviour.delay_s)
                while self.held:  # noqa: ASYNC110 - set by another thread
                    await asyncio.sleep(0.01)
                last = position == end - 1
                part = {"delta": {"content": words[position]}} if chat else {"text": words[position]}
                choice = {"index": index, **part, "finish_reason": reason if last else None, "token_ids": [position]}
                if not chat and position == first:
                    choice["prompt_token_ids"] = [*PROMPT, *range(first)]
                yield _chunk(body, chat, choice, **({"system_fingerprint": "vllm-fake"} if last else {}))
        if (body.get("stream_options") or {}).get("include_usage"):
            read, written = len(PROMPT) + first, n * (end - first)
            usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
            head = {"id": "engine-id", "object": _object(chat), "created": CREATED, "model": body["model"]}
            yield orjson.dumps({**head, "choices": [], "usage": usage})

    def _words(self, body: dict[str, Any]) -> Sequence[str]:
        return self.behaviour.words.get(body["model"], WORDS)

    def _be_there(self, request: web.Request) -> None:
        if self.behaviour.away and request.transport is not None:
            request.transport.abort()


def score(model: str, token: int) -> float:
    """The fake's log-prob of a token under a model (its served name)."""
    shift = 0.0 if model == BASE else 0.5 + sum(model.encode()) % 7 / 10
    return -1.0 - token % 5 / 10 - shift


def _is_list_of_texts(prompt: Any) -> bool:
    """Only the gateway's own verification sends several prompts of token ids at once."""
    return type(prompt) is list and all(type(text) is list for text in prompt)


def _scored(body: dict[str, Any], shift: float) -> dict[str, Any]:
    choices, off = [], 0.0 if body["model"] == BASE else shift
    for index, text in enumerate(body["prompt"]):
        rows = [None] + [{str(token): {"logprob": score(body["model"], token) + off}} for token in text[1:]]
        choices.append({"index": index, "text": "", "prompt_logprobs": rows})
    return {"choices": choices}


def _spoken(body: dict[str, Any]) -> int:
    """How many of the answer's tokens a prompt of token ids holds already."""
    prompt = body.get("prompt")
    return len(prompt) - len(PROMPT) if isinstance(prompt, list) and prompt[: len(PROMPT)] == PROMPT else 0


def _object(chat: bool) -> str:
    return "chat.completion.chunk" if chat else "text_completion"


def _chunk(body: dict[str, Any], chat: bool, choice: dict[str, Any], **more: Any) -> bytes:
    head = {"id": "engine-id", "object": _object(chat), "created": CREATED, "model": body["model"]}
    return orjson.dumps({**head, "choices": [choice], **more})


def _whole(body: dict[str, Any], chat: bool, words: Sequence[str] = WORDS) -> dict[str, Any]:
    n, tokens = body.get("n", 1), min(body.get("max_tokens") or len(words), len(words))
    text = "".join(words[:tokens])
    part = {"message": {"role": "assistant", "content": text, "reasoning": None}} if chat else {"text": text}
    choices = [
        {"index": i, **part, "finish_reason": "length", "token_ids": list(range(tokens)), "stop_reason": None}
        for i in range(n)
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": n * tokens, "total_tokens": 3 + n * tokens}
    kind = "chat.completion" if chat else "text_completion"
    head = {"id": "engine-id", "object": kind, "created": CREATED, "model": body["model"]}
    return {**head, "choices": choices, "usage": usage, "prompt_token_ids": [1, 2, 3], "kv_transfer_params": None}


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "Error", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


@contextmanager
def fake_engine() -> Iterator[FakeEngine]:
    """A running fake on a free port."""
    fake = FakeEngine()
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/models", fake.models)
        app.router.add_get("/health", fake.health)
        app.router.add_post("/v1/load_lora_adapter", fake.load)
        app.router.add_post("/v1/unload_lora_adapter", fake.unload)
        app.router.add_post("/tokenize", fake.tokenize)
        app.router.add_post("/v1/chat/completions", fake.complete)
        app.router.add_post("/v1/completions", fake.complete)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.port = runner.addresses[0][1]
        started.set()
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, name="fake-engine")
    thread.start()
    started.wait()
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
