"""What the control queue does: announce what training offers, start jobs by the schedule, find jobs nobody works on.

Plain functions on a connected ledger; Celery only calls them. Never imports torch.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from feedback.errors import UnknownPolicy
from feedback.ids import BASE_VERSION, JobId
from feedback.jobs import Announcement, JobStore
from feedback.ledger import Ledger
from feedback.registry import Registry
from feedback.schedule import Decision
from feedback.starting import Order, look, request_of
from training.algorithms import REPLAY, Recipe, SftRecipe
from training.base.convert import file_digest
from training.examples.learns_from import learns_from
from training.recipe import RECIPES, load_recipes
from training.settings import Settings

log = logging.getLogger("training.control")

Send = Callable[[JobId], None]
"""Sends the message that says: look at this job."""


@dataclass(frozen=True)
class Desk:
    """The parts of the ledger that control work needs."""

    settings: Settings
    ledger: Ledger
    registry: Registry
    jobs: JobStore


def announcement(settings: Settings) -> Announcement:
    """What training offers here. A recipe of the operator's own that is refused hides the built-in one of its name."""
    built_in, own = load_recipes(), load_recipes(settings.training.recipes or RECIPES)
    refused = built_in.refused | own.refused
    recipes = {name: recipe for name, recipe in (built_in.recipes | own.recipes).items() if name not in refused}
    chosen = settings.training.recipe
    if chosen not in recipes:
        refused.setdefault(chosen, f"{chosen!r} is no recipe; set BURNISH_TRAINING_RECIPE to one of {sorted(recipes)}")
    if (folder := settings.training.recipes) is not None and not folder.is_dir():
        # What a recipe of the operator's own would hide must not be trained by in its place.
        recipes, refused = {}, dict.fromkeys({*recipes, chosen}, f"training.recipes = {folder} is no folder")
    for why in dict.fromkeys(refused.values()):
        _warn_once(", ".join(name for name in refused if refused[name] == why), why)
    return Announcement(
        recipes={name: recipe_body(recipe, settings) for name, recipe in recipes.items()},
        refused=refused,
        learns_from={name: learns_from(recipe) for name, recipe in recipes.items()},
        default_recipe=chosen,
        rules=settings.schedule,
        code_version=code_version(),
        at=time.time(),
    )


def recipe_body(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """A recipe as its jobs keep it: with the digest of the text that it replays, as far as that can be read."""
    if isinstance(recipe, SftRecipe) and REPLAY in recipe.shares and settings.training.replay is not None:
        with suppress(OSError):  # of a file that cannot be read the job tells
            recipe = recipe.model_copy(update={"replay_digest": digest_kept(settings.training.replay)})
    return recipe.model_dump(mode="json")


def digest_kept(path: Path) -> str:
    """SHA-256 of a file, read anew only when it has changed: every look at the schedule asks for it."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _digest(path: Path, changed_ns: int, size: int) -> str:
    return file_digest(path)


def tick(desk: Desk, send: Send) -> Decision:
    """Announce, look at the schedule, and start a job when it is due."""
    offer = announcement(desk.settings)
    desk.jobs.announce(offer)
    ready = _base_in_use(desk)
    if ready is None:
        return Decision(False, ("the base model is not there yet, or the gateway has not entered it",))
    recipe = offer.default_recipe
    decision = offer.decide(look(desk.ledger, desk.jobs, offer.taught_by(recipe)))
    if decision.train:
        order = Order(recipe, ready, actor="schedule", reason=decision.reasons[0])
        made = desk.jobs.create(request_of(order, offer, desk.ledger))
        log.info("job %s: %s", made.job.id, decision.reasons[0])
        send(made.job.id)
    return decision


def reconcile(desk: Desk, n_waiting: int, send: Send) -> list[JobId]:
    """Send a message for every job that nobody works on, unless messages (`n_waiting`) are still on their way."""
    if n_waiting:
        return []
    unclaimed = desk.jobs.unclaimed(time.time())
    for job_id in unclaimed:
        send(job_id)
    return unclaimed


@cache
def code_version() -> str:
    """Names the code that decides what a job's adapter becomes: our sources and the libraries that compute."""
    total = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in ("torch", "transformers", "peft", "accelerate"):
        total.update(f"{package} {metadata.version(package)}\n".encode())
    return total.hexdigest()[:12]


@cache
def _warn_once(name: str, why: str) -> None:
    """Every tick meets a refused recipe again; a process tells of it once for each reason."""
    log.warning("recipe %s is left out: %s", name, why)


def _base_in_use(desk: Desk) -> str | None:
    """The base's digest, once the model is there and the gateway has entered it as the line's base."""
    digest = desk.settings.base_digest()
    try:
        entered = desk.registry.policy(BASE_VERSION).base_digest
    except UnknownPolicy:
        return None
    return digest if digest == entered else None
