"""The gateway's JSON as the page's own types: what is asked, and answers, turns and statements as they come. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feedback.events import STATEMENT
from ui.chat.conversations import STOPPED, Message, Said, Turn
from ui.errors import AnswerBroken

Json = dict[str, Any]
_EVENT_FIELDS = frozenset({"id", "object", "created_at", "ordinal", "tenant"})


@dataclass(frozen=True)
class Ask:
    """One request for an answer from `model`: the public id of whatever is live.

    `may_duel` lets the gateway answer with two, if it draws this one for a duel.
    """

    model: str
    messages: tuple[Message, ...]
    user: str
    session: str
    sampling: Mapping[str, Any]
    compare_with: str | None = None
    may_duel: bool = False

    def body(self) -> Json:
        metadata = {"session": self.session}
        if self.compare_with is not None:
            metadata["compare_with"] = self.compare_with
        if self.may_duel:
            metadata["duel"] = "allow"
        return {
            "model": self.model,
            "stream": True,
            "messages": [{"role": message.role, "content": message.text} for message in self.messages],
            "user": self.user,
            "metadata": metadata,
            **self.sampling,
        }


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it is written.

    Of a duel's two answers `index` says which it is of, and `beside` is the other's turn; no `version` is told.
    """

    turn_id: str
    version: str
    text: str
    finish_reason: str | None
    index: int = 0
    beside: str | None = None


def pieces_of(event: Json, *, duel: bool) -> Iterator[Piece]:
    """What an event of a stream brings. AnswerBroken where it tells of a failure."""
    if "error" in event:
        raise AnswerBroken(str(event["error"]))
    for choice in event.get("choices") or ():
        index, text = choice["index"], (choice.get("delta") or {}).get("content") or ""
        turn_ids, version = (event["id"], f"{event['id']}.1"), "" if duel else event["model"]
        beside = turn_ids[1 - index] if duel else None
        yield Piece(turn_ids[index], version, text, choice.get("finish_reason"), index, beside)


def turn_of(body: Json) -> Turn:
    """A turn as the page knows it; a duel's second answer is one that is compared with the first."""
    duel = bool(body.get("duel"))
    beside = body["id"].partition(".")[0]
    return Turn(
        id=body["id"],
        session=body["session"],
        version=body["model"] or "",
        messages=tuple(Message(message["role"], _text(message.get("content"))) for message in body["messages"]),
        answer=body["answer"],
        finish_reason=body.get("finish_reason") or STOPPED,
        sampling=body.get("sampling") or {},
        compare_with=beside if duel and beside != body["id"] else body.get("compare_with"),
        duel=duel,
    )


def _text(content: Any) -> str:
    """A message's text; other parts than text are not this page's."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def said_of(body: Json) -> Said:
    """A statement as the ledger keeps it."""
    fields = {name: value for name, value in body.items() if name not in _EVENT_FIELDS}
    return Said(body["id"], STATEMENT.validate_python(fields))
