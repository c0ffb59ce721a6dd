"""One browser tab's desk: the conversation on it, the answer being written, the pair being compared.

All ids stay here; the browser names messages by their place on screen. `asking` and `voting` hold the acts that
change a desk, `view` draws it.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from feedback.events import Comparison
from ui.chat.compare import Choice, Draw, Showing
from ui.chat.conversations import Message, Path, Said, Standing, Turn, path_of, standing, undo
from ui.chat.kept import Kept
from ui.gateway import ChatGateway

PanelKind = Literal["up", "down", "correct", "message"]
_ASKED_AT_ONCE = 8
_TURNS_WITH_WORDS = 60


@dataclass
class Draft:
    """One answer as far as it is written."""

    turn_id: str = ""
    version: str = ""
    text: str = ""
    finish_reason: str | None = None

    @property
    def has_come(self) -> bool:
        return bool(self.text or self.finish_reason)


@dataclass
class Writing:
    """An answer as it is being written, or both of a duel; `compare_with` is the one it will be compared with."""

    session: str
    asked: tuple[Message, ...]
    compare_with: Turn | None = None
    may_duel: bool = False
    drafts: tuple[Draft, ...] = field(default_factory=lambda: (Draft(),))
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def first(self) -> Draft:
        return self.drafts[0]

    @property
    def is_duel(self) -> bool:
        return len(self.drafts) > 1

    @property
    def is_whole(self) -> bool:
        return all(draft.finish_reason for draft in self.drafts)

    @property
    def text(self) -> str:
        """All that has come."""
        return "".join(draft.text for draft in self.drafts)


@dataclass(frozen=True)
class Panel:
    """A form open under the message at `at`."""

    kind: PanelKind
    at: int


@dataclass(frozen=True)
class Notice:
    """One sentence under the conversation, and the event that can be taken back from there."""

    text: str
    bad: bool = False
    said: Said | None = None


@dataclass
class Comparing:
    """A pair on screen since `since` (monotonic seconds). A choice, once tried, is sent again word for word."""

    showing: Showing
    since: float = field(default_factory=time.monotonic)
    tried: dict[Choice, tuple[str, Comparison]] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What every desk is given: the gateway, the model and the sampling settings it asks with, the drawing of sides."""

    gateway: ChatGateway
    model: str
    sampling: Mapping[str, Any]
    draw: Draw


@dataclass
class Desk:
    """`turns` are all of the person's, oldest first; `words` what was said about them. `path` follows from both."""

    given: Given
    visitor: str
    kept: Kept = field(default_factory=Kept)
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    turns: list[Turn] = field(default_factory=list)
    words: dict[str, list[Said]] = field(default_factory=dict)
    path: Path = field(default_factory=Path)
    standing: Standing = field(default_factory=Standing)
    writing: Writing | None = None
    comparing: Comparing | None = None
    unsent: tuple[Message, ...] = ()
    panel: Panel | None = None
    notice: Notice | None = None
    restored: bool = False

    async def restore(self, kept: Kept) -> None:
        """Bring back what the ledger and the browser remember. After GatewayAway it can be tried again."""
        self.kept = kept
        self.session = kept.current or self.session
        self.turns = await self.given.gateway.turns(self.visitor)
        seen = [turn.session for turn in self.turns if turn.id not in kept.undone and turn.session not in kept.hidden]
        await self.open(kept.current or (seen[-1] if seen else self.session))
        self.unsent = _unanswered(kept, self.path.messages)
        self.restored = True

    async def open(self, session: str) -> None:
        """Put one conversation on the desk, with what was said about its answers."""
        unread = [turn.id for turn in self.turns if turn.session == session and turn.id not in self.words]
        await self._read_words(unread[-_TURNS_WITH_WORDS:])
        self.leave()
        self.session = session
        self.settle()

    def new(self) -> None:
        """An empty conversation; it is in the list once something was answered in it."""
        self.leave()
        self.session = uuid.uuid4().hex
        self.settle()

    def hide(self, session: str) -> None:
        """Take a conversation off the list in this browser; the ledger keeps it."""
        self.kept = replace(self.kept, hidden=self.kept.hidden | {session})
        if session == self.session:
            self.new()

    def leave(self) -> None:
        """Stop what is being written and close what is open."""
        if self.writing is not None:
            self.writing.stop.set()
        self.writing = self.comparing = self.panel = self.notice = None
        self.unsent = ()

    def settle(self) -> None:
        """Derive the path anew from the turns and the words, and show the pair that is open, if one is."""
        turns = self.session_turns()
        self.standing = standing(said for turn in turns for said in self.words.get(turn.id, ()))
        self.path = path_of(turns, self.kept.undone, self.standing)
        pair = self.path.pair
        if pair is None:
            self.comparing = None
        elif self.comparing is None or (self.comparing.showing.older, self.comparing.showing.newer) != pair:
            self.comparing = Comparing(Showing(*pair, older_left=pair[1].duel or self.given.draw()))

    def session_turns(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.session == self.session]

    def take_off(self, turn_ids: frozenset[str]) -> None:
        """Take turns off this browser's screen."""
        self.kept = replace(self.kept, undone=self.kept.undone | turn_ids)
        self.settle()

    def undo(self) -> str:
        """Take the last message and its answers off the screen; the message's text is returned."""
        gone = undo(self.path, self.session_turns())
        asked = next((step.message.text for step in reversed(self.path.steps) if step.message.role == "user"), "")
        if not gone:
            return ""
        self.panel = self.notice = None
        self.take_off(gone)
        return asked

    def skip(self) -> None:
        """Leave a pair without a verdict: the earlier answer goes on, of a duel the first."""
        if self.path.pair is not None:
            self.take_off(frozenset({self.path.pair[1].id}))

    def on_screen(self) -> tuple[Message, ...]:
        """The messages on screen by their place; one that could not be answered is the last of them."""
        return self.unsent or self.path.messages

    def answer_at(self, at: int) -> Turn | None:
        """The turn behind the message at that place on screen."""
        return self.path.steps[at].turn if 0 <= at < len(self.path.steps) else None

    def remembered(self) -> Kept:
        """What the browser should keep: with the conversation, a message that has no answer yet."""
        writing = self.writing if self.writing and self.writing.compare_with is None else None
        asked = writing.asked if writing else self.unsent
        if not asked:
            return replace(self.kept, current=self.session, draft="", place=0)
        return replace(self.kept, current=self.session, draft=asked[-1].text, place=len(asked) - 1)

    async def _read_words(self, turn_ids: list[str]) -> None:
        room = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def read(turn_id: str) -> None:
            async with room:
                self.words[turn_id] = await self.given.gateway.said_about(turn_id, self.visitor)

        await asyncio.gather(*(read(turn_id) for turn_id in turn_ids))


def _unanswered(kept: Kept, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation as it ends in the message kept without an answer; empty when that has its answer by now.

    A tab that goes away in the middle of an answer leaves both: the message in the browser, the turn in the ledger.
    The place tells that from the same words said once more.
    """
    draft = Message("user", kept.draft)
    if not kept.draft or draft in messages[kept.place : kept.place + 1]:
        return ()
    return (*messages[: kept.place], draft)
