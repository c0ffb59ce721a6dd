"""Tries an adapter out in one engine before anybody may know of it, and notes what it then scores.

An adapter from outside comes without a trainer's numbers: those that the engine gives first become its probes, so that
every later load, on whatever replica, is held against them.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from feedback.ids import Version
from serve.adapters.adapter_files import AdapterRefused
from serve.adapters.manifest import Probe
from serve.errors import ApiError, EngineFailed, EngineRefused, EngineUnavailable
from serve.replicas.engine import AdapterNotLoaded, Engine, LoadRefused
from serve.replicas.fleet import Fleet
from serve.replicas.probes import Rows, too_faint

TEXTS: Sequence[tuple[str, str]] = (
    ("What makes bread rise?", "Yeast eats the sugar in the dough and gives off gas, which fills it with bubbles."),
    ("Name three things found in a toolbox.", "A hammer, a screwdriver and a tape measure are found in most of them."),
    ("Why do people keep diaries?", "Writing the day down helps them to remember it and to understand what they felt."),
    ("Explain what a lighthouse is for.", "Its light shows ships at night where the coast and its rocks are."),
)
"""Fixed questions with answers, in whose log-probs any adapter of a chat model shows."""


@dataclass(frozen=True)
class EngineTryOut:
    """Takes the first replica that answers: the others hold the adapter against what this one scores."""

    fleet: Fleet

    async def __call__(self, version: Version, directory: Path) -> tuple[Probe, ...]:
        """Loads the adapter, scores the fixed texts without it and with it, and unloads it.

        AdapterRefused when it does not load, does not score, or changes next to nothing; EngineUnavailable when there
        is no engine to try it on. The engine has forgotten its name either way.
        """
        engine = next((each for each in self.fleet.replicas if each.shelf.models), self.fleet.replicas[0]).engine
        models = await engine.models()
        texts = [await _tokens(engine, ask, say) for ask, say in TEXTS]
        token_ids = [ids for ids, _ in texts]
        base = await engine.score(models.base, token_ids)
        with self.fleet.held(version):
            adapter = await _score_with(engine, version, directory, token_ids)
        probes = tuple(_probe(ids, start, off, on) for (ids, start), off, on in zip(texts, base, adapter, strict=True))
        problem = too_faint(probes)
        if problem is not None:
            raise AdapterRefused(problem)
        return probes


async def _score_with(engine: Engine, version: Version, directory: Path, token_ids: list[list[int]]) -> Rows:
    try:
        await engine.load(version, directory)
        return await engine.score(version, token_ids)
    except LoadRefused as error:
        raise AdapterRefused(f"the engine would not load it: {error}") from error
    except AdapterNotLoaded as error:
        raise EngineUnavailable(f"the engine was restarted while {version} was tried out") from error
    except (EngineRefused, EngineFailed) as error:
        raise AdapterRefused(f"the engine would not score with it: {error.message}") from error
    finally:
        with suppress(ApiError):  # What stays in the engine now is taken down by the swap's next look.
            await engine.unload(version)


async def _tokens(engine: Engine, ask: str, say: str) -> tuple[list[int], int]:
    prompt = await engine.tokenize([{"role": "user", "content": ask}])
    return [*prompt, *await engine.tokenize(say)], len(prompt)


def _probe(token_ids: list[int], start: int, base: Sequence[float], adapter: Sequence[float]) -> Probe:
    if not all(math.isfinite(x) for x in (*base, *adapter)):
        raise AdapterRefused("its answers have no probability: its weights are too large for the engine's numbers")
    off, on = (tuple(round(x, 5) for x in row[start - 1 :]) for row in (base, adapter))
    return Probe(token_ids=tuple(token_ids), start=start, base=off, adapter=on)
