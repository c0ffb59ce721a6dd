"""`make demo`: a simulated user teaches a running Burnish a simple taste, and the figures say whether it learned.

Asks 96 questions, compares two answers to each, waits while the schedule trains and the gate judges, keeps four
streams chatting across the swap, then compares the new version with the old one on 60 other questions. Ends with one
JSON line. A second run in the same home goes from the first learned version to a second one.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tests.demo.burnish import Burnish, Turn, from_environment
from tests.demo.figures import changed_midway, loss_per_token, wins
from tests.demo.prompts import EVALUATION, FIRST_ROUND, SECOND_ROUND, SMALL_TALK
from tests.demo.streams import Chatter, Heard
from tests.demo.taste import Seen, verdict

AT_ONCE = 12
STREAMS = 4
ANSWERS = 2
BASE = "v0000-base"
JOB_PATIENCE_S = 1800.0
Item = TypeVar("Item")
Result = TypeVar("Result")


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


async def each(items: Sequence[Item], act: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """Acts on every item, a dozen at once, and gives the results in order."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Result:
        async with room:
            return await act(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


async def refuse_peoples_home(burnish: Burnish, *, force: bool) -> None:
    """People's votes are not to be mixed with a simulated user's."""
    people = (await burnish.operator("/operator/schedule"))["people"]
    if people and not force:
        raise SystemExit(
            f"demo: this home holds {people} votes by people, and the demo would teach it a simulated user's taste: "
            "start one with another BURNISH_HOME, or say --force"
        )


async def teach(burnish: Burnish, questions: Sequence[str]) -> float:
    """Asks, compares and votes; returns when the last vote was accepted (Unix seconds)."""

    async def one(question: str) -> str:
        first = await burnish.ask(question)
        second = await burnish.ask(question, compare_with=first.id)
        said = verdict(first.seen, second.seen)
        await burnish.vote(first, second, said)
        return said

    verdicts = await each(questions, one)
    say(f"{len(verdicts)} comparisons, {verdicts.count('tie')} of them ties")
    return time.time()


async def watch_training(burnish: Burnish, since: float) -> dict[str, Any]:
    """Waits for the job that the schedule starts by itself, telling its stages; the job when it has ended."""
    told, deadline = "", time.time() + JOB_PATIENCE_S
    while time.time() < deadline:
        jobs = (await burnish.operator("/operator/jobs"))["jobs"]
        job: dict[str, Any] | None = next((job for job in jobs if job["created_at"] >= since), None)
        now = f"{job['stage']} {10 * int(10 * job['progress'])} %" if job else "waiting for the schedule"
        if now != told:
            told = now
            say(f"training: {now}")
        if job and job["state"] in ("done", "failed"):
            return job
        await asyncio.sleep(2)
    raise SystemExit(f"demo: the training did not end within {JOB_PATIENCE_S:.0f} s; see the status page")


async def new_version(burnish: Burnish, job: dict[str, Any], before: str) -> dict[str, Any]:
    """The policy that the job made, once it is live; tells the gate's report when it was refused."""
    if job["state"] == "failed":
        raise SystemExit(f"demo: the job {job['id']} failed: {job['error']}")
    policy = await burnish.operator(f"/operator/policies/{job['version']}")
    for _ in range(60):
        policies = await burnish.operator("/operator/policies")
        if policies["live"] != before:
            return policy
        await asyncio.sleep(1)
    report = json.dumps(policy["gate"], indent=2)
    raise SystemExit(f"demo: {policy['version']} is {policy['state']} and did not go live. The gate says:\n{report}")


async def count_mixed(burnish: Burnish, heard: Sequence[Heard], versions: tuple[str, str]) -> int:
    """How many answers changed version midway, by scoring their tokens under both versions."""

    async def one(turn: Turn) -> bool:
        kept = await burnish.tokens(turn)
        other = versions[0] if turn.version == versions[1] else versions[1]
        claimed = await burnish.score(kept, turn.version)
        return changed_midway(kept["logprobs"], claimed, await burnish.score(kept, other))

    return sum(await each([each_.turn for each_ in heard if each_.turn is not None], one))


async def answers_of(burnish: Burnish, version: str) -> tuple[list[list[Seen]], float]:
    """A version's answers to the evaluation questions, by question, and their loss per token under the base."""
    asked = [question for question in EVALUATION for _ in range(ANSWERS)]
    turns = await each(asked, lambda question: burnish.ask(question, model=f"burnish@{version}"))

    async def base_logprobs(turn: Turn) -> list[float]:
        return await burnish.score(await burnish.tokens(turn), BASE)

    loss = loss_per_token(await each(turns, base_logprobs))
    seen = [turn.seen for turn in turns]
    return [seen[i : i + ANSWERS] for i in range(0, len(seen), ANSWERS)], loss


async def run(burnish: Burnish, *, force: bool) -> dict[str, Any]:
    await refuse_peoples_home(burnish, force=force)
    before: str = (await burnish.operator("/operator/policies"))["live"]
    began_at = time.time()
    say(f"live is {before}; asking {len(FIRST_ROUND)} questions, two answers each")
    last_vote_at = await teach(burnish, FIRST_ROUND if before == BASE else SECOND_ROUND)
    chatter = Chatter(burnish, SMALL_TALK)
    chatter.start(STREAMS)
    job = await watch_training(burnish, began_at)
    policy = await new_version(burnish, job, before)
    after: str = policy["version"]
    say(f"{after} is live; the gate said {policy['gate']['verdict']}")
    await chatter.stop_after(after, 2 * STREAMS)
    # Before the new version existed there was nothing to change to.
    across = [heard for heard in chatter.heard if heard.ended_at >= policy["created_at"]]
    failed = [heard.error for heard in across if heard.turn is None]
    say(f"{len(across)} streamed answers across the swap, {len(failed)} failed; scoring their tokens")
    mixed = await count_mixed(burnish, across, (before, after))
    say(f"asking {len(EVALUATION)} other questions of both versions")
    old, loss_before = await answers_of(burnish, before)
    new, loss_after = await answers_of(burnish, after)
    share = wins(new, old)
    return {
        "before": before,
        "after": after,
        "swap_requests": len(across),
        "swap_failed": len(failed),
        "swap_mixed": mixed,
        "seconds_to_new": round((chatter.first_of(after) or time.time()) - last_vote_at, 1),
        "wins": round(share.value, 3),
        "wins_low": round(share.low, 3),
        "wins_high": round(share.high, 3),
        "loss_before": round(loss_before, 3),
        "loss_after": round(loss_after, 3),
    }


async def main() -> None:
    options = argparse.ArgumentParser(prog="make demo", description=__doc__)
    options.add_argument("--force", action="store_true", help="also in a home that holds people's votes")
    force = options.parse_args().force
    burnish = from_environment()
    began = time.monotonic()
    try:
        figures = await run(burnish, force=force)
    finally:
        await burnish.close()
    say(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
