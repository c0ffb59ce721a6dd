"""The DPO training loop: pairs, a policy adapter, the base as reference. Reads from top to bottom.

On one device with one thread, a run that was stopped anywhere and taken up from its checkpoint ends with the same
adapter, bit for bit, as an unbroken one.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.batches import Pass, group_steps, make_pass, pack
from training.checkpoint import Checkpoint, Checkpoints, optimizer_state, restore_optimizer
from training.curate import TokenPair
from training.errors import Diverged, Stopped, WrongFirstLoss
from training.losses.preference import PairLogprobs, dpo, implicit_margin, nll
from training.model import SharedBase
from training.recipe import DpoRecipe, OptimizerRecipe

POLICY = "policy"
FIRST_LOSS_TOLERANCE = 1e-3

Point = Mapping[str, float]


@dataclass(frozen=True)
class Watch:
    """What a run tells and asks while it goes: a curve point per step, the share done, whether to stop."""

    point: Callable[[Point], None]
    progress: Callable[[float], None]
    stopping: Callable[[], bool]


@dataclass(frozen=True)
class Step:
    """One optimizer step: the passes it learns from, by their place."""

    epoch: int
    passes: tuple[int, ...]


@dataclass(frozen=True)
class PairPass:
    """A forward pass over P pairs (answers 2i and 2i+1 are chosen and rejected of pair i) with their weights."""

    batch: Pass
    weights_P: Tensor


def train_dpo(
    model: SharedBase, pairs: Sequence[TokenPair], recipe: DpoRecipe, folder: Path, watch: Watch, *, every_s: float = 20
) -> None:
    """Train the adapter POLICY on `model`, checkpointing into `folder` at least `every_s` seconds apart.

    Raises WrongFirstLoss, Diverged, or Stopped when `watch` says so (after a checkpoint).
    """
    passes = pack_pairs(pairs, recipe)
    plan = plan_steps([len(p.weights_P) for p in passes], recipe)
    run = run_digest(pairs, recipe)
    ahead = 1 / (1 + 3 * recipe.epochs)  # the reference's share of the work: a forward pass, no backward one
    reference = _reference_logprobs(
        model,
        passes,
        folder / "reference.safetensors",
        run,
        replace(watch, progress=lambda x: watch.progress(x * ahead)),
    )

    model.add_adapter(POLICY, recipe.adapter, seed=recipe.seed)
    parameters = model.parameters(POLICY)
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    checkpoints = Checkpoints(folder / "checkpoints", run)
    done = 0
    if (kept := checkpoints.newest()) is not None:
        model.set_adapter_state(POLICY, kept.adapter)
        restore_optimizer(optimizer, parameters, kept.optimizer)
        done = kept.step
    saved_at = time.monotonic()

    def save(step: int) -> None:
        checkpoints.save(Checkpoint(step, model.adapter_state(POLICY), optimizer_state(optimizer, parameters)))

    for number in range(done, len(plan)):
        step = plan[number]
        torch.manual_seed(recipe.seed + 7919 * (number + 1))  # dropout; the same for this step in any attempt
        optimizer.zero_grad(set_to_none=True)
        total_weight = sum(float(passes[i].weights_P.sum()) for i in step.passes)
        seen: list[dict[str, Tensor]] = []
        for i in step.passes:
            if watch.stopping():
                save(number)
                raise Stopped(f"stopped before step {number + 1} of {len(plan)}")
            batch, weights_P = passes[i].batch, passes[i].weights_P
            with model.policy(POLICY):
                policy = split_pairs(batch.sum_answers(model.logprobs(batch).cpu()))
            margin_P = implicit_margin(policy, reference[i], recipe.beta)
            dpo_P = dpo(margin_P)
            nll_P = nll(policy.chosen_P, batch.lengths()[0::2])
            loss_P = dpo_P + recipe.nll_weight * nll_P
            ((weights_P * loss_P).sum() / total_weight).backward()
            found = {"loss": loss_P, "dpo": dpo_P, "nll": nll_P, "margin": margin_P}
            found |= {"chosen": policy.chosen_P, "rejected": policy.rejected_P, "weight": weights_P}
            seen.append({name: value.detach() for name, value in found.items()})

        values = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        if number == 0:
            check_first_loss(float(values["dpo"].mean()))
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm))
        point = _point(values, number, step.epoch, grad_norm)
        if not all(map(math.isfinite, point.values())):
            raise Diverged(
                f"step {number + 1}: loss {point['loss']}, gradient norm {grad_norm}. "
                f"Lower optimizer.learning_rate (now {settings.learning_rate:g}) or raise beta (now {recipe.beta:g})"
            )
        rate = learning_rate(settings, number, len(plan))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        watch.point({**point, "learning_rate": rate})
        watch.progress(ahead + (1 - ahead) * (number + 1) / len(plan))
        if time.monotonic() - saved_at >= every_s or number + 1 == len(plan):
            save(number + 1)
            saved_at = time.monotonic()


def pack_pairs(pairs: Sequence[TokenPair], recipe: DpoRecipe) -> list[PairPass]:
    """Pairs in passes of at most `pass_tokens`, always the same ones together."""
    return [
        PairPass(make_pass([pairs[i].item for i in group]), torch.tensor([pairs[i].weight for i in group]))
        for group in pack([pair.item.n_tokens for pair in pairs], recipe.pass_tokens, recipe.batch_pairs)
    ]


def plan_steps(sizes: Sequence[int], recipe: DpoRecipe) -> list[Step]:
    """The steps of the whole run: every epoch takes all passes in an order of its own."""
    plan: list[Step] = []
    for epoch in range(recipe.epochs):
        chance = torch.Generator().manual_seed(recipe.seed + 104_729 * (epoch + 1))
        order = torch.randperm(len(sizes), generator=chance).tolist()
        for start, end in group_steps([sizes[i] for i in order], recipe.batch_pairs):
            plan.append(Step(epoch, tuple(order[start:end])))
    return plan


def run_digest(pairs: Sequence[TokenPair], recipe: DpoRecipe) -> str:
    """Names a run: what it learns from and how."""
    return hashlib.sha256(repr((tuple(pairs), recipe.model_dump_json())).encode()).hexdigest()


def split_pairs(sums_N: Tensor) -> PairLogprobs:
    """Answers 2i and 2i+1 as chosen and rejected of pair i."""
    return PairLogprobs(sums_N[0::2], sums_N[1::2])


def check_first_loss(loss: float) -> None:
    """WrongFirstLoss unless the loss is what it must be while the policy still equals the reference."""
    if not abs(loss - math.log(2)) <= FIRST_LOSS_TOLERANCE:  # NaN too
        raise WrongFirstLoss(
            f"the first DPO loss is {loss:.6f}, it must be ln 2 = {math.log(2):.6f} within {FIRST_LOSS_TOLERANCE:g}: "
            "policy and reference differ before training; delete the job's folder if the base model was replaced"
        )


def learning_rate(settings: OptimizerRecipe, step: int, total: int) -> float:
    """The rate of step `step` (from 0) of `total`: up over the warmup share, then constant or down towards 0."""
    warmup = math.ceil(settings.warmup_share * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    match settings.schedule:
        case "constant":
            return settings.learning_rate
        case "linear":
            return settings.learning_rate * (1 - share)
        case "cosine":
            return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _reference_logprobs(
    model: SharedBase, passes: Sequence[PairPass], cache: Path, run: str, watch: Watch
) -> list[PairLogprobs]:
    """The reference's log-probs of every pass; kept in `cache`, so that they are computed once per job."""
    name = f"{run}/sums_N"
    sizes = [p.batch.n_answers for p in passes]
    if cache.exists() and name in (kept := load_file(cache)) and len(kept[name]) == sum(sizes):
        return [split_pairs(part) for part in kept[name].split(sizes)]
    parts: list[Tensor] = []
    for number, each in enumerate(passes):
        watch.progress(number / len(passes))
        if watch.stopping():
            raise Stopped("stopped while the reference was computed")
        with torch.no_grad(), model.policy(None):
            parts.append(each.batch.sum_answers(model.logprobs(each.batch).cpu()))
    cache.parent.mkdir(parents=True, exist_ok=True)
    aside = cache.with_suffix(".part")
    save_file({name: torch.cat(parts)}, aside)
    aside.replace(cache)
    return [split_pairs(part) for part in parts]


def _point(values: Mapping[str, Tensor], number: int, epoch: int, grad_norm: float) -> dict[str, float]:
    """One step's curve point: means over its pairs; log-probs are summed over an answer, in nats."""
    weights_P = values["weight"]
    return {
        "step": number + 1,
        "epoch": epoch + 1,
        "pairs": len(weights_P),
        "loss": float((weights_P * values["loss"]).sum() / weights_P.sum()),
        "nll": float(values["nll"].mean()),
        "margin": float(values["margin"].mean()),
        "chosen_logprob": float(values["chosen"].mean()),
        "rejected_logprob": float(values["rejected"].mean()),
        "accuracy": float((values["margin"] > 0).float().mean()),
        "grad_norm": grad_norm,
    }
