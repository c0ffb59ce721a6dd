"""Every key the ledger keeps in Redis, with its type. All but the API keys carry the line.

Colons part a key; those within a part are written `%3A`.
"""

from dataclasses import dataclass

from feedback.ids import EventId, JobId, KeyId, LineName, TenantId, TurnId, Version

KEYS = "burnish:keys"
"""hash: key id → API key as JSON (its secret hashed)."""
KEYS_EPOCH = "burnish:keys:epoch"
"""integer: grows with every change of the API keys."""


def minute(key_id: KeyId) -> str:
    """sorted set: ids of the reservations of an API key's last 60 s by their time (Redis's own, µs).

    Holds no more than the key's limit; gone 61 s after the last one.
    """
    return f"burnish:minute:{key_id}"


def quota(key_id: KeyId) -> str:
    """hash: reservation id → tokens held or used, for those in `minute`, and `sum` of them all. Gone with `minute`."""
    return f"burnish:quota:{key_id}"


@dataclass(frozen=True)
class Keyspace:
    line: LineName

    def _key(self, *parts: str) -> str:
        return ":".join(("burnish", self.line, *map(_escaped, parts)))

    # Events ------------------------------------------------------------------------------------------------------
    @property
    def log(self) -> str:
        """stream: every event in the order of acceptance; fields id, ordinal, body, slot. Never trimmed."""
        return self._key("log")

    @property
    def ordinal(self) -> str:
        """integer: the last event's ordinal."""
        return self._key("ordinal")

    def event(self, event_id: EventId) -> str:
        """hash: ordinal, body (JSON), slot, group of a score."""
        return self._key("event", event_id)

    def idempotency(self, tenant: TenantId, key: str) -> str:
        """string: `EVENT_ID BODY_DIGEST` of the request that used this idempotency key. Kept for 7 days."""
        return self._key("idempotency", tenant, key)

    @property
    def slots(self) -> str:
        """hash: slot → id of the event that stands in it."""
        return self._key("slots")

    @property
    def standing(self) -> str:
        """sorted set: ids of standing events by ordinal."""
        return self._key("standing")

    @property
    def lessons(self) -> str:
        """sorted set, every score 0: `LESSON:ORDINAL:EVENT_ID` (12 digits) of each standing event that teaches."""
        return self._key("lessons")

    @property
    def lesson_rows(self) -> str:
        """hash: id of a standing event that teaches → its row in `lessons`."""
        return self._key("lesson-rows")

    @property
    def scores(self) -> str:
        """hash: group (`scores.group_of`) → JSON list of its standing scores, [event id, ordinal, score] each."""
        return self._key("scores")

    @property
    def tally(self) -> str:
        """hash: `last_vote_at` (Unix seconds) and `people` (events ever said by humans)."""
        return self._key("tally")

    def about(self, turn_id: TurnId) -> str:
        """sorted set: ids of the events about a turn, by ordinal."""
        return self._key("about", turn_id)

    # Turns -------------------------------------------------------------------------------------------------------
    def turn(self, turn_id: TurnId) -> str:
        """string: the turn as JSON. Expires after 30 days unless an event is about it."""
        return self._key("turn", turn_id)

    def turns_of(self, tenant: TenantId, field: str = "all", value: str = "") -> str:
        """sorted set: turn ids of a tenant, of one `user` or of one `session`, by time; 30 days of them."""
        return self._key("turns", tenant, field, value)

    # Policies ----------------------------------------------------------------------------------------------------
    @property
    def policies(self) -> str:
        """hash: version → policy as JSON."""
        return self._key("policies")

    @property
    def registry(self) -> str:
        """hash: `epoch` and `lives` (JSON list of the versions that were live, the live one last)."""
        return self._key("registry")

    def receipt(self, nonce: str) -> str:
        """string: the epoch that one write of the registry brought about. Kept for 10 minutes."""
        return self._key("receipt", nonce)

    @property
    def counter(self) -> str:
        """integer: the last version counter given out."""
        return self._key("counter")

    @property
    def audit(self) -> str:
        """stream: who moved which policy, when and why; field `entry` (JSON)."""
        return self._key("audit")

    # Canary ------------------------------------------------------------------------------------------------------
    def duel(self, first_turn: TurnId) -> str:
        """string: one duel as JSON, under the turn of its first answer."""
        return self._key("duel", first_turn)

    def duels(self, canary: Version) -> str:
        """sorted set: first turns of the duels of a canary, by time."""
        return self._key("duels", canary)

    def traffic(self, canary: Version) -> str:
        """hash: `GATEWAY VERSION COUNT` → what one gateway has counted of a version since the canary began."""
        return self._key("traffic", canary)

    @property
    def judge(self) -> str:
        """string: the gateway that decides on the canary for now. Expires by itself."""
        return self._key("judge")

    # Jobs --------------------------------------------------------------------------------------------------------
    def job(self, job_id: JobId) -> str:
        """hash: the job row."""
        return self._key("job", job_id)

    def snapshot(self, job_id: JobId) -> str:
        """string: JSON list of the event ids the job learns from."""
        return self._key("job", job_id, "snapshot")

    def curve(self, job_id: JobId) -> str:
        """list: curve points as JSON, in the order of the steps."""
        return self._key("job", job_id, "curve")

    @property
    def jobs(self) -> str:
        """sorted set: job ids by time of creation."""
        return self._key("jobs")

    @property
    def fence(self) -> str:
        """integer: the last fencing token given out."""
        return self._key("fence")

    @property
    def snapshot_ordinal(self) -> str:
        """integer: ordinal up to which the newest job's snapshot reaches."""
        return self._key("snapshot-ordinal")

    @property
    def announcement(self) -> str:
        """string: what the training side offers (recipes, rules, code version), as JSON."""
        return self._key("announcement")


def _escaped(part: str) -> str:
    # Parts come from callers: with a colon in one, two different keys could be written alike.
    return part.replace("%", "%25").replace(":", "%3A")
