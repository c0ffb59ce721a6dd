"""What the gateways counted of the versions on trial, in Redis: a set of counts for each, added up when read."""

from collections.abc import Mapping

from feedback.connection import Client, translated
from feedback.ids import LineName, Version
from feedback.keyspace import Keyspace
from feedback.traffic import Traffic

_LATENCY = "first_"


class TrafficRows:
    """The counts of one line's canaries. LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: Client, line: LineName) -> None:
        self._client = client
        self._keys = Keyspace(line)

    def put(self, canary: Version, gateway: str, counted: Mapping[Version, Traffic]) -> None:
        """What this gateway has counted so far since the canary began, in place of what it said before."""
        row = {
            f"{gateway} {version} {name}": count
            for version, traffic in counted.items()
            for name, count in _flat(traffic).items()
        }
        if not row:
            return
        with translated():
            self._client.hset(self._keys.traffic(canary), mapping=row)

    def of(self, canary: Version) -> dict[Version, Traffic]:
        """What all gateways together counted, by version."""
        with translated():
            row = self._client.hgetall(self._keys.traffic(canary))
        totals: dict[Version, dict[str, int]] = {}
        for field, count in row.items():
            _, version, name = field.split(" ")
            counts = totals.setdefault(Version(version), {})
            counts[name] = counts.get(name, 0) + int(count)
        return {version: _traffic(counts) for version, counts in totals.items()}


def _flat(traffic: Traffic) -> dict[str, int]:
    counts = {name: count for name, count in traffic.model_dump(exclude={"first_tokens"}).items() if count}
    return counts | {f"{_LATENCY}{bucket}": count for bucket, count in traffic.first_tokens.items()}


def _traffic(counts: Mapping[str, int]) -> Traffic:
    first_tokens = {
        int(name.removeprefix(_LATENCY)): count for name, count in counts.items() if name.startswith(_LATENCY)
    }
    others = {name: count for name, count in counts.items() if not name.startswith(_LATENCY)}
    return Traffic(**others, first_tokens=first_tokens)
