"""A stand-in for the gateway where no engine is needed: every version answers the same, promotions are real.

Speaks the five calls that training makes, on a real registry.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from feedback.connection import connect
from feedback.errors import MoveRefused
from feedback.ids import LineName, Version
from feedback.registry import Registry
from tests.training.tiny import make_tokenizer

ANSWERS = ("Yes, of course.", "That is a good question.", "I would say no.", "Water and bread.", "Ask again later.")


@contextmanager
def stand_in_gateway(redis_url: str, *, answers_as: str | None = None) -> Iterator[str]:
    """Yields its URL. `answers_as` makes it claim that model for every answer."""
    registry = Registry(connect(redis_url), LineName("burnish"))
    tokenizer = make_tokenizer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            version = Version(self.path.rpartition("/")[2])
            policy = registry.policy(version).model_dump(mode="json")
            self._say(200, {**policy, "load": {"state": "loaded", "error": None}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/chat/completions":
                self._say(200, self._answer(body))
                return
            version = Version(self.path.split("/")[3])
            try:
                view = registry.promote(version, actor="test", reason=body["reason"], epoch=registry.epoch())
            except MoveRefused as error:
                self._say(409, {"error": {"message": str(error)}})
                return
            self._say(200, {"live": view.live, "previous": view.previous, "epoch": view.epoch})

        def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
            text = ANSWERS[body["seed"] % len(ANSWERS)]
            ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
            choice = {"message": {"content": text}, "token_ids": ids, "finish_reason": "stop"}
            return {"model": answers_as or body["model"], "choices": [choice]}

        def _say(self, status: int, body: dict[str, Any]) -> None:
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
