"""A stand-in for the gateway where no engine is needed: every version answers the same, promotions are real.

Speaks the six calls that training makes, on a real registry. The first request to each version is answered as by an
engine that has just lost it: 404, and the version counts as not loaded the next time its state is asked for.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from feedback.canary import CanaryRules
from feedback.connection import connect
from feedback.errors import MoveRefused, UnknownPolicy
from feedback.ids import LineName, Version
from feedback.registry import Registry, Why
from tests.training.tiny import make_tokenizer
from training.sampling.gateway import Sample

ANSWERS = ("Yes, of course.", "That is a good question.", "I would say no.", "Water and bread.", "Ask again later.")


Sampler = Callable[[str, list[dict[str, Any]], int, int], Sample]
"""Samples from a version: its name, messages, a seed, the most tokens."""
Said = tuple[int, dict[str, Any]]
"""A status code and a body."""


class _Engine:
    """Which versions have had their troubles, and which are lost until somebody has looked."""

    def __init__(self, troubles: Sequence[int], aborted: Sequence[dict[str, Any]]) -> None:
        self._troubles = troubles
        self._aborted = list(aborted)
        self._left: dict[str, list[int]] = {}
        self._lost: set[str] = set()
        self._lock = threading.Lock()

    def next_trouble(self, version: str) -> int | None:
        """The status code that a request to this version ends with; None when it is answered."""
        with self._lock:
            waiting = self._left.setdefault(version, list(self._troubles))
            status = waiting.pop(0) if waiting else None
            if status == 404:
                self._lost.add(version)
            return status

    def next_abort(self) -> dict[str, Any]:
        """What a choice says where the engine gave its request up; nothing where it went to the end."""
        with self._lock:
            return self._aborted.pop(0) if self._aborted else {}

    def load_state(self, version: str) -> str | None:
        """None once after the version was lost, then loaded again."""
        with self._lock:
            if version in self._lost:
                self._lost.remove(version)
                return None
            return "loaded"


def sampled(body: dict[str, Any], sampler: Sampler) -> dict[str, Any]:
    """A choice with the log-probs of its tokens."""
    assert (body["temperature"], body["priority"]) == (1.0, 1)
    found = sampler(body["model"].rpartition("@")[2], body["messages"], body["seed"], body["max_tokens"])
    return {
        "message": {"content": found.text},
        "token_ids": list(found.token_ids),
        "logprobs": {"content": [{"token": "", "logprob": each} for each in found.logprobs]},
        "finish_reason": found.finish_reason,
    }


def sentence(text: str, ids: Sequence[int], n_logprobs: int | None) -> dict[str, Any]:
    """A choice that says `text`; with made-up log-probs for its first tokens, or without any for None."""
    choice: dict[str, Any] = {"message": {"content": text}, "token_ids": ids, "finish_reason": "stop"}
    if n_logprobs is not None:
        choice["logprobs"] = {"content": [{"token": str(ids[i]), "logprob": logprob_at(i)} for i in range(n_logprobs)]}
    return choice


def logprob_at(position: int) -> float:
    """What is said to be the log-prob of an answer's token."""
    return -0.25 * (position + 1)


class StandIn:
    """What the stand-in says: to GET by `look`, to POST by `take`; a status and a body each."""

    def __init__(
        self,
        redis_url: str,
        *,
        answers_as: str | None = None,
        troubles: Sequence[int] = (404,),
        sampler: Sampler | None = None,
        lost_logprobs: int = 0,
        aborted: Sequence[dict[str, Any]] = (),
        bodies: list[dict[str, Any]] | None = None,
        context_tokens: int | None = 512,
    ) -> None:
        self._registry = Registry(connect(redis_url), LineName("burnish"))
        self._tokenizer = make_tokenizer()
        self._engine = _Engine(troubles, aborted)
        self._answers_as = answers_as
        self._sampler = sampler
        self._lost_logprobs = lost_logprobs
        self._bodies = bodies
        self._context_tokens = context_tokens

    def look(self, path: str) -> Said:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "burnish", "max_model_len": self._context_tokens}]}
        version = Version(path.rpartition("/")[2])
        try:
            policy = self._registry.policy(version).model_dump(mode="json")
        except UnknownPolicy as error:
            return 404, {"error": {"message": str(error)}}
        state = self._engine.load_state(version)
        return 200, {**policy, "load": {"state": state, "error": None} if state else None}

    def take(self, path: str, body: dict[str, Any]) -> Said:
        return self._answer(body) if path == "/v1/chat/completions" else self._promote(path, body)

    def _answer(self, body: dict[str, Any]) -> Said:
        if self._bodies is not None:
            self._bodies.append(body)
        status = self._engine.next_trouble(body["model"].rpartition("@")[2])
        if status is not None:
            return status, {"error": {"message": f"{body['model']} is not loaded", "code": "trouble"}}
        choice = self._choice(body) | self._engine.next_abort()
        return 200, {"model": self._answers_as or body["model"], "choices": [choice]}

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._sampler is not None and body.get("logprobs"):
            return sampled(body, self._sampler)
        text = ANSWERS[body["seed"] % len(ANSWERS)]
        ids = [*self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id]
        return sentence(text, ids, len(ids) - self._lost_logprobs if body.get("logprobs") else None)

    def _promote(self, path: str, body: dict[str, Any]) -> Said:
        registry, version = self._registry, Version(path.split("/")[3])
        if path.endswith("/canary"):
            view = registry.begin_canary(version, Why("test", body["reason"]), CanaryRules())
            return 200, {"live": view.live, "previous": view.previous, "epoch": view.epoch}
        if body["over"] != (live := registry.view().live):
            return 409, {"error": {"message": f"{live} is live now"}}
        try:
            view = registry.promote(version, Why("test", body["reason"]), epoch=registry.epoch())
        except MoveRefused as error:
            return 409, {"error": {"message": str(error)}}
        return 200, {"live": view.live, "previous": view.previous, "epoch": view.epoch}


@contextmanager
def stand_in_gateway(redis_url: str, **options: Any) -> Iterator[str]:
    """Yields its URL. `answers_as` makes it claim that model for every answer.

    `sampler` answers those who want log-probs; everybody else, and all where there is none, get a sentence by their
    seed. `troubles` are the status codes that each version's first requests end with, in this order. Log-probs that
    are asked for come for all tokens but the last `lost_logprobs`. The first choices of all carry what `aborted` says
    of them, as those of requests that the engine gave up do. `bodies` takes in what was asked. `context_tokens` is what
    the engine is said to have room for.
    """
    stand_in = StandIn(redis_url, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(stand_in.look(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._say(stand_in.take(self.path, body))

        def _say(self, said: Said) -> None:
            status, body = said
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="stand-in-gateway")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
