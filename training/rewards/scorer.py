"""An exported reward model behind HTTP, in a process of its own: `burnish rewards serve NAME`.

POST /score rewards answers, POST /compare weighs two against each other, GET /healthz says which model it is. Binds to
loopback unless told otherwise and asks for no key: put it behind something that does before others can reach it.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from training.base.convert import model_digest
from training.base.loading import load_chat_tokens
from training.base.model import SharedBase
from training.errors import PromptRefused, RewardRefused
from training.examples.example import TokenPair
from training.examples.tokens import TokenIds
from training.rewards.reward_files import check_made_for, load_reward
from training.rewards.reward_model import Answered, RewardModel
from training.settings import Settings
from training.worker.place import place

log = logging.getLogger("training.rewards.scorer")

MOST_ITEMS = 256
MOST_BYTES = 8 * 2**20

Wanted = TypeVar("Wanted", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextPart(_Body):
    """A part of a message; a reward model reads text only."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One message of the prompt."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]


Messages = Annotated[list[ChatMessage], Field(min_length=1)]


class ScoreItem(_Body):
    """One answer to be rewarded."""

    messages: Messages
    answer: str


class ScoreRequest(_Body):
    """The body of POST /score."""

    items: Annotated[list[ScoreItem], Field(min_length=1, max_length=MOST_ITEMS)]


class CompareItem(_Body):
    """Two answers to be weighed against each other."""

    messages: Messages
    first: str
    second: str


class CompareRequest(_Body):
    """The body of POST /compare."""

    items: Annotated[list[CompareItem], Field(min_length=1, max_length=MOST_ITEMS)]


class Refused(Exception):
    """What a caller gets instead of rewards, in OpenAI's shape."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class Scorer:
    """The two questions, from a request's body to a response's. One is answered at a time."""

    def __init__(self, model: RewardModel, context_tokens: int) -> None:
        self._model = model
        self._context_tokens = context_tokens
        self._between = model.tokens.again() if model.is_pairwise else ()
        self._turn = threading.Lock()

    def score(self, asked: ScoreRequest) -> list[dict[str, Any]]:
        """Per item: reward, spread over the ensemble, and each head's own reward."""
        with self._turn:  # the tokenizer too takes one caller at a time
            items = [
                Answered(self._prompt(item.messages, i), self._model.tokens.answer(item.answer))
                for i, item in enumerate(asked.items)
            ]
            for i, item in enumerate(items):
                self._check_length(len(item.prompt) + len(item.answer), i)
            found = self._model.rewards(items)
        return [{"reward": each.value, "spread": each.spread, "heads": each.heads} for each in found]

    def compare(self, asked: CompareRequest) -> list[dict[str, Any]]:
        """Per item: how far the first answer is ahead (nats), the spread of that, how likely people prefer it."""
        with self._turn:
            pairs = [
                TokenPair(
                    event_id=str(i),
                    question="",
                    prompt=self._prompt(item.messages, i),
                    chosen=self._model.tokens.answer(item.first),
                    rejected=self._model.tokens.answer(item.second),
                )
                for i, item in enumerate(asked.items)
            ]
            for i, pair in enumerate(pairs):
                answers = (len(pair.chosen), len(pair.rejected))
                longest = sum(answers) + len(self._between) if self._model.is_pairwise else max(answers)
                self._check_length(len(pair.prompt) + longest, i)
            return [asdict(each) for each in self._model.preferences(pairs, joined=True)]

    def _prompt(self, messages: Sequence[ChatMessage], item: int) -> TokenIds:
        try:
            return self._model.tokens.prompt([message.model_dump() for message in messages])
        except PromptRefused as error:
            raise Refused(400, str(error), f"items.{item}.messages") from error

    def _check_length(self, n_tokens: int, item: int) -> None:
        if n_tokens > self._context_tokens:
            message = f"the item has {n_tokens} tokens, the model reads at most {self._context_tokens}; shorten it"
            raise Refused(400, message, f"items.{item}")


def build_app(model: RewardModel, name: str) -> FastAPI:
    """The HTTP face of one reward model."""
    scorer = Scorer(model, model.base.context_tokens)
    app = FastAPI(title="Burnish scorer", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        about = {"model": name, "kind": model.recipe.algorithm, "heads": [head for head in model.heads if head]}
        return {"status": "ok", **about, "members": len(model.members), "temperature": model.temperature}

    @app.post("/score")
    async def score(request: Request) -> dict[str, Any]:
        return await answer(request, ScoreRequest, scorer.score)

    @app.post("/compare")
    async def compare(request: Request) -> dict[str, Any]:
        return await answer(request, CompareRequest, scorer.compare)

    async def answer(
        request: Request, kind: type[Wanted], ask: Callable[[Wanted], list[dict[str, Any]]]
    ) -> dict[str, Any]:
        wanted = parse(kind, await read_body(request))
        return {"model": name, "items": await run_in_threadpool(ask, wanted)}

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return error_page(error.status, error.message, error.param)

    @app.exception_handler(RewardRefused)
    async def wrong_kind(request: Request, error: RewardRefused) -> Response:
        return error_page(400, f"{error}; POST /compare")

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def unknown(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return error_page(status, f"there is no {request.method} {request.url.path}; POST /score or /compare")

    @app.exception_handler(500)
    async def failed(request: Request, error: Exception) -> Response:
        return error_page(500, "the scorer failed; its log says why")

    return app


async def read_body(request: Request) -> bytes:
    """A request's whole body; Refused as soon as it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the body is larger than {MOST_BYTES} bytes; send fewer items at a time")
    return bytes(body)


def parse(kind: type[Wanted], body: bytes) -> Wanted:
    """The body as the request it should be; Refused names the first thing that is wrong with it."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise Refused(400, f"{param or 'the body'}: {first['msg'][:1].lower()}{first['msg'][1:]}", param) from error


def error_page(status: int, message: str, param: str | None = None) -> Response:
    """OpenAI's error shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": None}}, status)


def serve(settings: Settings, folder: Path, host: str, port: int) -> None:
    """Serve one reward model until the process is asked to stop. TrainingError when it cannot be loaded."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    digest = settings.base_digest() or model_digest(settings.model_path)
    check_made_for(folder, digest)
    base = SharedBase(settings.model_path, place(settings.training.model_copy(update={"processes": 1})))
    model = load_reward(folder, base, load_chat_tokens(settings.model_path), digest)
    log.info("rewarding with %s on http://%s:%d", folder.name, host, port)
    uvicorn.run(build_app(model, folder.name), host=host, port=port, log_level="warning")
