"""`make bench-reward`: a Bradley-Terry reward model from real pairs, ours against TRL. Ends with one JSON line.

Every side takes the same pairs from text to a trained adapter with its head, once, in steps of as many pairs; loading
the model is not counted.
"""

import json
import sys
from collections.abc import Sequence

from tests.bench.pairs import make_task, parse_arguments, result, table
from tests.bench.rounds import Bench, machine_load, run_rounds, say, surroundings

SIDES = ("ours", "trl_best", "trl_default")


def main(arguments: Sequence[str]) -> int:
    load = machine_load()
    told = parse_arguments(arguments, "bench-reward", __doc__)
    task, about = make_task(told), surroundings(told.threads, load)
    say(f"{told.pairs} pairs, {told.rounds} rounds, {told.threads} threads, {told.precision}, load {load}")
    rounds = run_rounds(Bench("tests.bench.reward_sides", SIDES, task, told.threads), told.rounds)
    print(table(rounds), file=sys.stderr)
    print(json.dumps(result("reward", rounds, task, about)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
