"""What the standing events teach, in Redis: counted by lesson from an ordinal on. The append script keeps it right."""

from collections.abc import Iterable

from feedback.connection import Client, translated
from feedback.events import Event
from feedback.ids import Lesson
from feedback.keyspace import Keyspace
from feedback.lessons import lesson_of


class LessonRows:
    """The lessons of one line. LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client, keys: Keyspace) -> None:
        self._client = client
        self._keys = keys

    def count(self, lessons: Iterable[Lesson], after: int) -> dict[Lesson, int]:
        """How many standing events of each of these lessons came after that ordinal."""
        wanted = list(dict.fromkeys(lessons))
        with translated():
            pipe = self._client.pipeline(transaction=True)
            for lesson in wanted:
                # The character after the colon ends the range: rows of no other lesson lie before it.
                pipe.zlexcount(self._keys.lessons, f"[{lesson}:{after + 1:012d}", f"({lesson};")
            counts = pipe.execute() if wanted else []
        return dict(zip(wanted, map(int, counts), strict=True))

    def is_kept(self) -> bool:
        with translated():
            return bool(self._client.exists(self._keys.lessons))

    def fill(self, events: Iterable[Event]) -> int:
        """Takes up standing events that the script has not; returns how many of them teach something."""
        found = [(event, lesson_of(event.said)) for event in events]
        rows = {event.id: f"{lesson}:{event.ordinal:012d}:{event.id}" for event, lesson in found if lesson}
        if not rows:
            return 0
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.zadd(self._keys.lessons, dict.fromkeys(rows.values(), 0))
            pipe.hset(self._keys.lesson_rows, mapping=rows)
            pipe.execute()
        return len(rows)
