"""`make fuzz`: schemathesis over our own openapi.json, all checks, then mutated bodies; ends with a JSON line.

The gateway is real, on a real Redis and a fake engine, which answers at once. `failures` counts what was found.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.bench.mutated import ASK, CHAT, fuzz, place
from tests.services import ROOT, Gateway

_CLI = "from schemathesis.cli import schemathesis; schemathesis()"
_HOOKS = "tests.serve.schemathesis_hooks"


@dataclass(frozen=True)
class Drawn:
    """How many cases schemathesis sent, how many of them failed, and all that it said."""

    cases: int
    failures: int
    said: str


def run_schemathesis(gateway: Gateway, max_examples: int) -> Drawn:
    """All checks over every route, some `max_examples` drawn cases each beside those of its own that cover the schema.

    One worker: several threads at once are more than Python 3.11's parser can take in hypothesis's own use of it.
    """
    with httpx.Client(base_url=gateway.url, headers=gateway.headers(), timeout=60) as client:
        turns = ",".join(client.post(CHAT, json=ASK).json()["id"] for _ in range(2))
    command = [
        *(sys.executable, "-c", _CLI, "run", f"{gateway.url}/openapi.json"),
        *("--checks", "all", "--max-examples", str(max_examples), "--workers", "1"),
        *("--header", f"Authorization: Bearer {gateway.key()}", "--continue-on-failure", "--no-color"),
    ]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": _HOOKS, "PYTHONPATH": str(ROOT), "BURNISH_FUZZ_TURNS": turns}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    said = done.stdout + done.stderr
    counted = re.search(r"(\d+) generated(?:, (\d+) found)?", said)
    if counted is None:
        raise RuntimeError(f"schemathesis did not run: {said[-3000:]}")
    failures = int(counted[2] or 0)
    return Drawn(int(counted[1]), failures or int(done.returncode != 0), said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=110, help="drawn cases for each route")
    parser.add_argument("--bodies", type=int, default=20_000, help="mutated bodies")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, place(Path(folder), args.model) as gateway:
        drawn = run_schemathesis(gateway, args.examples)
        print(drawn.said if drawn.failures else f"schemathesis: {drawn.cases} cases, no failure", flush=True)
        found = fuzz(gateway, args.bodies)
    for failure in found.failures[:30]:
        print(failure)
    print(
        json.dumps(
            {
                "schemathesis_cases": drawn.cases,
                "schemathesis_failures": drawn.failures,
                "mutated_bodies": args.bodies,
                "mutated_failures": len(found.failures),
                "turns": found.turns,
                "events": found.events,
                "statuses": {str(status): number for status, number in sorted(found.statuses.items())},
            }
        )
    )


if __name__ == "__main__":
    main()
