"""Which scores belong together: those of one person, in one aspect, of answers to one prompt. Pure."""

import hashlib
import json

from feedback.events import Aspect, Event
from feedback.ids import Lesson
from feedback.turns import Turn, asked

Group = str
"""`LESSON:DIGEST`: scores of one group can be set against each other, whichever answers they are of."""


def scored(name: str) -> Lesson:
    """What the later of two different scores of a group teaches: which of the answers is better in that aspect."""
    return Lesson(f"scored-{name}")


def group_of(event: Event, said: Aspect, turn: Turn) -> Group:
    """The group of a score of `turn`. What a judge or a simulated user says stands apart from what people say."""
    parts = [event.tenant, event.user or "", said.source, said.name, asked(turn)]
    return f"{scored(said.name)}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"
