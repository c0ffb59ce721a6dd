"""One side of `make bench-ppo` in a process of its own: `python -m tests.bench.ppo_sides SIDE` with the task on stdin.

Times whole rounds, from the prompts' token ids to the last step, sampling included, and prints one line of JSON.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from tests.bench.sides import ADAPTER, LEARNING_RATE, Task, lora, peak_mib, watch
from tests.services import start_engine, start_gateway, start_redis
from training.loops.steps import Point
from training.rollouts import Group, Rollouts

KL_WEIGHT, VALUE_WEIGHT, CLIP, TRACE = 0.05, 0.1, 0.2, 0.95
MIB = 2**20


@dataclass(frozen=True)
class Told:
    """A side's figures. `waiting_s`: of all the seconds, those in which answers were waited for.

    `serving_mib` is what the processes hold beside the one that trains: the engine, and what is in front of it.
    """

    seconds: float
    waiting_s: float
    peak_mib: float
    steps: int
    answer_tokens: float
    reward_mean: float
    trl: str | None = None
    engine_mib: float = 0.0
    serving_mib: float = 0.0


def main(side: str) -> int:
    task: Task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    told = SIDES[side](task)
    samples = task["rounds_each"] * len(task["prompts"]) * task["answers"]
    print(json.dumps({**asdict(told), "samples_per_s": samples / told.seconds}))
    return 0


# Ours ----------------------------------------------------------------------------------------------------------------
def ours_recomputing(task: Task) -> Told:
    """Ours with training.recompute_activations."""
    return ours(task, recompute=True)


def ours(task: Task, *, recompute: bool = False) -> Told:
    """What a job does: policies published to the running engine, its answers rewarded, learned from, checkpoints."""
    from training.loops.policy_gradient import train_policy_gradient
    from training.model import SharedBase, load_chat_tokens
    from training.publish import Origin
    from training.recipe import parse_recipe
    from training.rewarding import scorer_of
    from training.rollouts import Asked, EngineRollouts

    model = Path(task["model"])
    recipe = parse_recipe(ours_recipe(task))
    points: list[Point] = []
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory()))
        engine = held.enter_context(start_engine(home, model))
        engine_processes = psutil.Process().children(recursive=True)
        redis_url = held.enter_context(start_redis(home / "redis"))
        gateway = held.enter_context(start_gateway(home, redis_url, engine.url, model=model))
        attempt = make_attempt(gateway, model)
        base, tokens = SharedBase(model, torch.device("cpu"), recompute=recompute), load_chat_tokens(model)
        score = scorer_of(Path(task["reward"]), base, tokens, attempt.job.base_digest, watch([]))
        origin = Origin(
            attempt.registry.reserve(attempt.claim), attempt.job.base_digest, attempt.job.id, "ppo", ADAPTER
        )
        prompts = [({"role": "user", "content": text},) for text in task["prompts"]]
        rollouts = Waited(EngineRollouts(attempt, base, tokens, Asked(prompts, recipe.rollouts, 0), origin))
        start = time.perf_counter()
        train_policy_gradient(base, recipe, rollouts, score, attempt.folder / "runs", watch(points))
        seconds = time.perf_counter() - start
        everything = psutil.Process().children(recursive=True)
        return Told(
            seconds=seconds,
            waiting_s=rollouts.seconds,
            peak_mib=peak_mib(),
            steps=len(points),
            answer_tokens=points[0]["answer_tokens"],
            reward_mean=points[0]["reward_mean"],
            engine_mib=resident_mib(engine_processes),
            serving_mib=resident_mib(everything),
        )


def ours_recipe(task: Task) -> dict[str, Any]:
    return {
        "algorithm": "ppo",
        "epochs": task["epochs"],
        "minibatches": 1,
        "kl_weight": KL_WEIGHT,
        "value_weight": VALUE_WEIGHT,
        "value_clip": CLIP,
        "clip_low": CLIP,
        "clip_high": CLIP,
        "trace": TRACE,
        "adapter": ADAPTER.model_dump(),
        "optimizer": {"learning_rate": LEARNING_RATE},
        "rollouts": {
            "rounds": task["rounds_each"],
            "prompts": len(task["prompts"]),
            "answers": task["answers"],
            "max_tokens": task["max_tokens"],
            "concurrency": len(task["prompts"]) * task["answers"],
        },
    }


def make_attempt(gateway: Any, model: Path) -> Any:
    """A claimed job in an empty ledger."""
    from feedback.connection import connect
    from feedback.ids import LineName
    from feedback.jobs import JobRequest, JobStore
    from feedback.ledger import Ledger
    from feedback.registry import Registry
    from training.attempt import Attempt
    from training.gateway import Gateway
    from training.settings import Settings

    line = LineName("burnish")
    client = connect(gateway.redis_url)
    jobs = JobStore(client, line)
    digest = (model / "digest.txt").read_text(encoding="utf-8").strip()
    job = jobs.create(JobRequest("ppo", {}, digest, "bench", [], 0, "bench", "bench")).job
    claim = jobs.claim(job.id, worker="bench", lease_s=36_000)
    assert claim is not None
    return Attempt(
        settings=Settings().model_copy(update={"home": gateway.home}),
        claim=claim,
        job=job,
        jobs=jobs,
        ledger=Ledger(client, line),
        registry=Registry(client, line),
        gateway=Gateway(gateway.url, gateway.key("worker"), line),
        stop=threading.Event(),
    )


class Waited:
    """Rollouts that count the seconds in which they were waited for: publishing, loading and sampling."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.seconds = 0.0
        self._rollouts = rollouts

    def begin(self, number: int, state: Mapping[str, Tensor]) -> None:
        start = time.perf_counter()
        self._rollouts.begin(number, state)
        self.seconds += time.perf_counter() - start

    def groups(self, number: int) -> Iterator[Group]:
        coming = self._rollouts.groups(number)
        while True:
            start = time.perf_counter()
            group = next(coming, None)
            self.seconds += time.perf_counter() - start
            if group is None:
                return
            yield group


def resident_mib(processes: list[psutil.Process]) -> float:
    """What they hold together; pages that several hold count once."""
    return float(sum(each.memory_full_info().pss for each in processes if each.is_running()) / MIB)


# TRL -----------------------------------------------------------------------------------------------------------------
def trl_best(task: Task) -> Told:
    """A round answered in one batch, `trl_batch` answers to a pass, as many steps as ours; bases in `trl_dtype`."""
    answers = len(task["prompts"]) * task["answers"]
    options = {
        "gradient_checkpointing": False,
        "per_device_train_batch_size": task["trl_batch"],
        "gradient_accumulation_steps": answers // task["trl_batch"],
        "local_rollout_forward_batch_size": task["trl_rollout_batch"] or answers,
    }
    return _trl(task, getattr(torch, task["trl_dtype"]), options)


def trl_default(task: Task) -> Told:
    """TRL as it comes, with LoRA: bases in fp32 under bf16 autocast, batches of its own size or all rows."""
    batch = min(8, len(task["prompts"]) * task["answers"])  # it would wait for ever for a batch to be full
    return _trl(task, torch.float32, {"per_device_train_batch_size": batch})


def _trl(task: Task, dtype: torch.dtype, options: Mapping[str, Any]) -> Told:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = AutoTokenizer.from_pretrained(task["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.unk_token  # its own is the end token too, which this trainer would take for padding
    policy = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype)
    reward = _classifier(task["reward_merged"], dtype)
    value = _with_adapter(_classifier(task["model"], dtype))
    waited = Timer(ppo_trainer.batch_generation)
    ppo_trainer.batch_generation = waited
    rows = [
        {"input_ids": tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)}
        for text in task["prompts"]
        for _ in range(task["answers"])
    ]
    rows = [{"input_ids": list(getattr(row["input_ids"], "input_ids", row["input_ids"]))} for row in rows]
    with tempfile.TemporaryDirectory() as work:
        arguments = PPOConfig(
            output_dir=work,
            use_cpu=True,
            learning_rate=LEARNING_RATE,
            total_episodes=task["rounds_each"] * len(rows),
            num_ppo_epochs=task["epochs"],
            num_mini_batches=1,
            num_sample_generations=0,
            response_length=task["max_tokens"],
            temperature=1.0,
            stop_token="eos",  # a name, no secret
            kl_coef=KL_WEIGHT,
            vf_coef=VALUE_WEIGHT,
            cliprange=CLIP,
            cliprange_value=CLIP,
            lam=TRACE,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        start = time.perf_counter()
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:1]),
            peft_config=lora("CAUSAL_LM"),
        )
        # Else whatever is the last of the rows' batches is stepped on after every pass, and a round is all rows.
        trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
        trainer.train()
        seconds = time.perf_counter() - start
    lengths = torch.cat([_answer_lengths(found, tokenizer) for found in waited.found])
    return Told(
        seconds=seconds,
        waiting_s=waited.seconds,
        peak_mib=peak_mib(),
        steps=max(int(state["step"]) for state in trainer.optimizer.state.values()),
        answer_tokens=float(lengths.float().mean()),
        reward_mean=trainer.state.log_history[0]["objective/scores"],
        trl=trl.__version__,
    )


def _classifier(folder: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype)
    return model.requires_grad_(False)


def _with_adapter(model: Any) -> Any:
    """The value model with an adapter that is trained, in fp32 as peft does for policies, and its head.

    The head keeps the base's dtype: the trainer values answers without autocast.
    """
    from peft import inject_adapter_in_model

    model = inject_adapter_in_model(lora("SEQ_CLS"), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.score.requires_grad_(True)
    return model


class Timer:
    """A function, the seconds spent in it, and what was generated: sequences cut to their answers, without logits."""

    def __init__(self, function: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.seconds = 0.0
        self.found: list[Tensor] = []
        self._function = function

    def __call__(self, model: Any, queries: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        sequences, logits = self._function(model, queries, *arguments)
        self.seconds += time.perf_counter() - start
        self.found.append(sequences[:, queries.shape[1] :].clone())
        return sequences, logits


def _answer_lengths(answers_BT: Tensor, tokenizer: Any) -> Tensor:
    """[B] tokens up to the end token, which counts."""
    ended_BT = (answers_BT == tokenizer.eos_token_id).int()
    return (ended_BT.cumsum(1) - ended_BT == 0).sum(1)


SIDES = {"ours": ours, "ours_recomputing": ours_recomputing, "trl_best": trl_best, "trl_default": trl_default}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
