"""A job's stages, straight down: snapshot → curate → train → publish → evaluate → gate → promote.

Every stage looks for what an earlier attempt has left, and does nothing twice.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.events import turns_named
from feedback.ids import BASE_VERSION
from feedback.policies import Policy, PolicyState, RegistryView
from training.algorithms import REPLAY, AdapterRecipe, AnyRewardRecipe, OnPolicy, PolicyRecipe, Recipe, SftRecipe
from training.base.convert import file_digest
from training.base.loading import linear_layers, load_chat_tokens, read_context_tokens
from training.base.model import SharedBase
from training.by_recipe import Desk, make_reward_model, train_by
from training.errors import GivenUp, ModelRefused, RecipeRefused, SettingsRefused, TooFew
from training.examples.context import within_context
from training.examples.lessons import Lessons, Snapshot, draw_lessons
from training.examples.replay import Replayed, load_replay
from training.examples.tokens import ChatTokens
from training.going_live import decide, promote_once
from training.judging.evaluate import Judge, compare_on_votes, measure, summarise
from training.judging.gate import Verdict, judge
from training.loops.steps import POLICY, Watch
from training.publishing.adapter_folders import Published, check_files, find_published
from training.publishing.publish import Origin, publish
from training.recipe import parse_recipe
from training.rewards.reward_files import check_made_for
from training.sampling.answers import Samples
from training.settings import Settings
from training.worker.attempt import Attempt, CurveWriter, patiently

log = logging.getLogger("training.job")

DRAFT, LIVE = "draft", "live"
"""Names of the published adapters in the judge's model."""

RUNS = "runs"
"""Folder in the job's own, with the checkpoints of each training run by its version counter."""


@dataclass(frozen=True)
class Bench:
    """What lies ready for the stages: the base with its tokens, what is to be learned, the gate's answers."""

    model: SharedBase
    tokens: ChatTokens
    lessons: Lessons
    samples: Samples


def run(attempt: Attempt, place_model: Callable[[], SharedBase]) -> None:
    """The whole job. TrainingError or FeedbackError when it cannot go on."""
    settings, job = attempt.settings, attempt.job
    recipe = parse_recipe(job.recipe_body, name=job.recipe)
    attempt.stage("curating votes", 0.01)
    if settings.base_digest() != job.base_digest:
        raise ModelRefused(
            f"the job is for base {job.base_digest[:12]}, {settings.model_path} holds {settings.base_digest()}; "
            "start a new job for the new base"
        )
    tokens = load_chat_tokens(settings.model_path)
    recipe = fit(attempt, recipe, tokens)
    check_parts(recipe, attempt)
    replayed = read_replay(settings, tokens, recipe)
    try:
        lessons = draw_lessons(read_snapshot(attempt), tokens, recipe, replayed.rows)
    except TooFew as error:
        attempt.report["pairs"] = told_with({"left_out": {}, **error.report}, replayed)
        attempt.stage("curating votes", 0.02)
        raise
    attempt.report["pairs"] = told_with(lessons.report, replayed)
    attempt.stage("loading the model", 0.03)
    bench = Bench(place_model(), tokens, lessons, Samples(attempt, lessons.prompts, tokens))

    if isinstance(recipe, AnyRewardRecipe):
        reward_once(attempt, bench, recipe)
        return
    if not isinstance(recipe, OnPolicy):  # whose own answers come first
        bench.samples.fetch_ahead()
    published = train_once(attempt, bench, recipe)
    policy = enter_draft(attempt, published, recipe)
    check_not_given_up(policy)
    if policy.state is PolicyState.draft:
        policy = evaluate_once(attempt, bench, published)
    promote_once(attempt, policy)
    clear_runs(attempt)
    patiently(lambda: attempt.jobs.finish(attempt.claim, version=published.version))


def reward_once(attempt: Attempt, bench: Bench, recipe: AnyRewardRecipe) -> None:
    """A job that ends with an exported reward model, and with no policy."""
    attempt.stage("training", 0.05)
    curve = CurveWriter(attempt)
    make_reward_model(recipe, desk_for(attempt, bench, curve, 0, 0.9))
    curve.flush()
    attempt.report["training"] = curve.last
    attempt.stage("closing", 0.99)
    clear_runs(attempt)
    patiently(lambda: attempt.jobs.finish(attempt.claim, version=None))


def clear_runs(attempt: Attempt) -> None:
    """What a finished job needs no more: checkpoints and scored rounds, several times the size of its adapter.

    The texts that were sampled stay in the job's folder.
    """
    if not attempt.settings.training.keep_runs:
        shutil.rmtree(attempt.folder / RUNS, ignore_errors=True)


def read_snapshot(attempt: Attempt) -> Snapshot:
    """The events of the job's snapshot, with their turns."""
    event_ids = patiently(lambda: attempt.jobs.snapshot(attempt.job.id))
    events = patiently(lambda: attempt.ledger.events(event_ids))
    named = [turn_id for event in events for turn_id in turns_named(event.said)]
    return Snapshot(events, patiently(lambda: attempt.ledger.turns(named)))


def fit(attempt: Attempt, recipe: Recipe, tokens: ChatTokens) -> Recipe:
    """The recipe for examples that the base can read; the report says so where it asks for longer ones."""
    context_tokens = read_context_tokens(attempt.settings.model_path)
    fitting = within_context(recipe, context_tokens, tokens)
    if fitting != recipe:
        attempt.report["context"] = (
            f"The recipe's max_example_tokens is more than the base's context of {context_tokens} tokens has room for; "
            "longer examples are left out."
        )
        log.warning("%s", attempt.report["context"])
    return fitting


def check_parts(recipe: Recipe, attempt: Attempt) -> None:
    """What the recipe names beside itself is there: the base's layers, the reward model.

    RecipeRefused or RewardRefused, before anything is loaded.
    """
    settings = attempt.settings
    layers = linear_layers(settings.model_path)
    for adapter in adapters_of(recipe):
        if unknown := sorted(set(adapter.target_modules) - layers):
            raise RecipeRefused(
                f"adapter.target_modules = {list(adapter.target_modules)}: the base's blocks have no linear layer "
                f"{', '.join(unknown)}; choose of {', '.join(sorted(layers))}"
            )
    if isinstance(recipe, OnPolicy) and recipe.reward_model is not None:
        check_made_for(settings.reward_models / recipe.reward_model, attempt.job.base_digest)


def adapters_of(recipe: Recipe) -> list[AdapterRecipe]:
    """The adapters that a job of the recipe trains."""
    own = [recipe.adapter]
    return [*own, recipe.reward.adapter] if isinstance(recipe, OnPolicy) and recipe.reward_model is None else own


def told_with(report: Mapping[str, Any], replayed: Replayed) -> dict[str, Any]:
    """What is reported of the examples, with what was left out of the replayed text."""
    return {**report, "left_out": {**report["left_out"], **replayed.left_out}}


def read_replay(settings: Settings, tokens: ChatTokens, recipe: Recipe) -> Replayed:
    """The text that the recipe replays, if it does. SettingsRefused when no file is named."""
    if not isinstance(recipe, SftRecipe) or not recipe.shares.get(REPLAY):
        return Replayed()
    if settings.training.replay is None:
        raise SettingsRefused(
            f"shares.replay = {recipe.shares['replay']:g}: the recipe replays text, but training.replay names no file; "
            "set BURNISH_TRAINING_REPLAY, or leave the share out"
        )
    replayed = load_replay(settings.training.replay, tokens, recipe.max_example_tokens)
    if recipe.replay_digest not in (None, file_digest(settings.training.replay)):
        raise SettingsRefused(
            f"training.replay = {settings.training.replay} was changed after the job was made; start a new one"
        )
    return replayed


def train_once(attempt: Attempt, bench: Bench, recipe: PolicyRecipe) -> Published:
    """Train and publish, unless an earlier attempt has.

    A failed job that was started again has a new counter, and with it an empty folder: its curves begin anew too.
    """
    counter = patiently(lambda: attempt.registry.reserve(attempt.claim))
    drop_runs_but(attempt, counter)
    adapters = attempt.settings.adapters
    if (published := find_published(adapters, attempt.job.id, counter)) is not None:
        return published
    attempt.stage("training", 0.05)
    began = time.monotonic()
    curve = CurveWriter(attempt)
    origin = Origin(counter, attempt.job.base_digest, attempt.job.id, attempt.job.recipe, recipe.adapter)
    train_by(recipe, desk_for(attempt, bench, curve, counter, 0.55), origin)
    curve.flush()
    attempt.report["training"] = {**curve.last, "seconds": round(time.monotonic() - began, 1)}
    attempt.stage("publishing", 0.61)
    return publish(bench.model.adapter_state(POLICY), origin, adapters, bench.model, bench.tokens)


def drop_runs_but(attempt: Attempt, counter: int) -> None:
    """The checkpoints and rounds of a run that failed for good are looked at until the job is started again."""
    for folder in (attempt.folder / RUNS).glob("v*"):
        if folder != run_folder(attempt, counter):
            shutil.rmtree(folder, ignore_errors=True)


def run_folder(attempt: Attempt, counter: int) -> Path:
    return attempt.folder / RUNS / f"v{counter:04d}"


def desk_for(attempt: Attempt, bench: Bench, curve: CurveWriter, counter: int, share: float) -> Desk:
    """Where a loop works; `share` is its part of the job's progress."""
    watch = Watch(
        point=curve.add,
        progress=lambda done: attempt.progress(0.05 + share * done),
        stopping=attempt.stop.is_set,
    )
    return Desk(attempt, bench.model, bench.tokens, bench.lessons, run_folder(attempt, counter), curve, watch)


def enter_draft(attempt: Attempt, published: Published, recipe: PolicyRecipe) -> Policy:
    """The published adapter as a policy in the registry, as it stands there now."""
    draft = Policy(
        version=published.version,
        counter=int(published.version[1:].split("-")[0]),
        state=PolicyState.draft,
        parent=BASE_VERSION,
        base_digest=attempt.job.base_digest,
        adapter=published.folder.name,
        digest=published.digest,
        rank=recipe.adapter.rank,
        job_id=attempt.job.id,
        created_at=time.time(),
    )
    view = patiently(lambda: attempt.registry.add_draft(attempt.claim, draft))
    return view.policy(published.version)


def check_not_given_up(policy: Policy) -> None:
    """GivenUp when the version was rejected because its job failed, by an attempt that was cut off right after."""
    if policy.state is PolicyState.rejected and "decision" not in (policy.gate or {}):
        raise GivenUp(str((policy.gate or {}).get("summary", "its version was rejected")))


def evaluate_once(attempt: Attempt, bench: Bench, published: Published) -> Policy:
    """Sample, score and judge the draft; it leaves as a candidate or rejected."""
    settings, version, samples = attempt.settings, published.version, bench.samples
    attempt.stage("waiting for the engine to load the draft", 0.63)
    attempt.gateway.wait_until_loaded(version, within_s=settings.gate.load_s)
    view = patiently(attempt.registry.view)
    live = load_live(attempt, bench.model, view)
    bench.model.load_adapter(DRAFT, published.folder)
    began = time.monotonic()
    scorer = Judge(bench.model, bench.tokens, attempt.check_stop)
    attempt.stage("comparing on held-out votes", 0.65)
    votes = compare_on_votes(scorer, DRAFT, live, bench.lessons.held_out)

    samples.wait_ahead()
    for rounds in range(1, samples.max_rounds + 1):
        prompts = samples.prompts(rounds)
        measured = {}
        for nth, (each, adapter) in enumerate({BASE_VERSION: None, view.live: live, version: DRAFT}.items()):
            attempt.stage(f"asking {each}", 0.68 + 0.08 * nth)
            answers = samples.answers(each, prompts)
            attempt.stage(f"scoring {each}", 0.72 + 0.08 * nth)
            measured[each] = measure(scorer, adapter, prompts, answers)
        gate = judge(measured[version], measured[view.live], measured[BASE_VERSION], votes, settings.gate)
        if not gate.undecided_harm:
            break

    metrics = {each: summarise(found) for each, found in measured.items()}
    attempt.report["evaluation"] = metrics
    attempt.report["seconds_evaluating"] = round(time.monotonic() - began, 1)
    body = {**gate.as_json(), "compared_with": view.live, "decision": decide(gate, settings)}
    attempt.report["gate"] = body
    attempt.stage("judging", 0.95)
    state = PolicyState.rejected if gate.verdict is Verdict.failed else PolicyState.candidate
    judged = patiently(
        lambda: attempt.registry.judge(attempt.claim, version, state, gate=body, metrics=metrics[version])
    )
    return judged.policy(version)


def load_live(attempt: Attempt, model: SharedBase, view: RegistryView) -> str | None:
    """The live policy's adapter in the judge's model; None when the bare base is live."""
    policy = view.policy(view.live)
    if policy.adapter is None or policy.digest is None:
        return None
    folder = attempt.settings.adapters / policy.adapter
    check_files(folder, policy.digest)
    model.load_adapter(LIVE, folder)
    return LIVE
