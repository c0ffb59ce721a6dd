"""The base in memory: one frozen model, with named LoRA adapters switched on and off over it.

The policy is an adapter, the reference the base with adapters off; a reward model is an adapter with a small head.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor

from training.algorithms import AdapterRecipe
from training.base import attention
from training.base.crew import Crew
from training.base.lm_head import divergence, logprobs_and_divergence, plain_head, token_logprobs
from training.base.loading import Precision, context_tokens_of, fastest_precision, load_base, recompute_layers
from training.base.shards import shard_layers
from training.errors import ModelRefused
from training.examples.batches import Item, Pass, make_pass


class SharedBase:
    """A frozen base on one device, and over it the adapters and their heads, which are kept in fp32.

    Its own `precision` is the one that the device is fastest in where none is given.

    `crew` are the processes that train together, each with such a base. With `sharded` each holds a part of its
    weights only; passes that are none of a step's are then made by the first process, which the others follow.
    With `recompute` a layer keeps its input alone for the backward pass, which computes the rest again.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: Precision | None = None,
        *,
        crew: Crew | None = None,
        sharded: bool = False,
        recompute: bool = False,
    ) -> None:
        attention.register()
        self.device = device
        self.crew = crew or Crew()
        self._precision = precision or fastest_precision(device)
        self._base = load_base(folder, self._precision)
        if recompute:
            recompute_layers(self._base)
        if sharded:
            shard_layers(self._base.base_model, device, self.crew.size)
            self.crew.shards = self
        self._base.to(device)
        self._peft: PeftModel | None = None
        self._heads: dict[str, torch.nn.Linear] = {}
        self._trained: set[str] = set()
        self._dropouts: dict[str, list[torch.nn.Module]] = {}

    @property
    def context_tokens(self) -> int:
        """The longest sequence the base reads."""
        return context_tokens_of(self._base.config)

    # Adapters ----------------------------------------------------------------------------------------------------
    def add_adapter(self, name: str, recipe: AdapterRecipe, *, seed: int) -> None:
        """A fresh adapter that changes nothing yet: A random from `seed`, B zero."""
        torch.manual_seed(seed)
        self._add(name, recipe)
        self._trained.add(name)
        self._thaw(name)

    def load_adapter(self, name: str, folder: Path) -> None:
        """An adapter as it was published, frozen."""
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        recipe = AdapterRecipe(
            kind="rslora" if config.get("use_rslora") else "lora",
            rank=config["r"],
            alpha=config["lora_alpha"],
            target_modules=tuple(config["target_modules"]),
        )
        self.adopt_adapter(name, recipe, load_file(folder / "adapter_model.safetensors"))

    def adopt_adapter(self, name: str, recipe: AdapterRecipe, state: Mapping[str, Tensor]) -> None:
        """An adapter with these tensors, frozen and without dropout; ModelRefused when they do not fit the recipe."""
        self._add(name, recipe.model_copy(update={"dropout": 0.0}))
        self.set_adapter_state(name, state)
        self._thaw(name)

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter and its head; the last adapter stays, for the base is wrapped in it."""
        model = self._with_adapters()
        self._heads.pop(name, None)
        self._trained.discard(name)
        self._dropouts.pop(name, None)
        others = [other for other in model.peft_config if other != name]
        if others:
            model.set_adapter(others[0])
            model.delete_adapter(name)

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's own tensors, by their name in a published file, sorted."""
        model = self._with_adapters()
        marker = f".{name}."
        own = {n.replace(marker, "."): p for n, p in model.named_parameters() if marker in n}
        return dict(sorted(own.items()))

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """Copies of an adapter's tensors in fp32, by their name in a published file."""
        state = get_peft_model_state_dict(self._with_adapters(), adapter_name=name, save_embedding_layers=False)
        return {key: state[key].detach().cpu().float().clone() for key in sorted(state)}

    def set_adapter_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Overwrite an adapter; ModelRefused when the names are not exactly its own."""
        own = set(self.adapter_state(name))
        if own != set(state):
            odd = sorted(own ^ set(state))[:3]
            raise ModelRefused(f"the adapter's tensors do not fit this base: {odd} …")
        set_peft_model_state_dict(self._with_adapters(), dict(state), adapter_name=name)

    @contextmanager
    def policy(self, name: str | None) -> Iterator[None]:
        """Within: answers come from that adapter; from the bare base for None."""
        if name is None:
            if self._peft is None:
                yield
                return
            with self._peft.disable_adapter():
                yield
            return
        self._with_adapters().set_adapter(name)
        self._thaw(name)
        yield

    # Heads -------------------------------------------------------------------------------------------------------
    def add_head(self, name: str, outputs: int) -> None:
        """A fresh linear head [H] → [outputs] beside the adapter `name`, trained with it.

        Of zeros, so that all answers are worth 0 at first: from a few dozen votes a random head has no time to forget
        what it began with. No bias, which no difference of rewards would ever see.
        """
        head = torch.nn.Linear(int(self._base.config.hidden_size), outputs, bias=False, dtype=torch.float32)
        torch.nn.init.zeros_(head.weight)
        self._heads[name] = head.to(self.device)

    def adopt_head(self, name: str, weight_KH: Tensor) -> None:
        """A head with these weights beside the adapter `name`, frozen; ModelRefused when it does not fit the base."""
        outputs, size = weight_KH.shape
        if size != self._base.config.hidden_size:
            raise ModelRefused(f"the head reads {size} values, this base gives {self._base.config.hidden_size}")
        self.add_head(name, outputs)
        with torch.no_grad():
            self._heads[name].weight.copy_(weight_KH)
        self._heads[name].requires_grad_(False)

    def head_parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """The head's tensors, by their name in an exported file."""
        return {f"head.{n}": parameter for n, parameter in self._heads[name].named_parameters()}

    def values(self, name: str, batch: Pass) -> Tensor:
        """[N, K] fp32 outputs of the head of adapter `name` at each answer's last token, under that adapter."""
        with self.policy(name):
            hidden_NH = self.hidden(batch, batch.ends())
        values: Tensor = self._heads[name](hidden_NH)
        return values

    def mean_values(self, name: str, batch: Pass) -> Tensor:
        """[N, K] the same at the mean over each answer's tokens: the mean of the head's outputs there."""
        with self.policy(name):
            hidden_SH = self.hidden(batch, batch.places())
        values_SK: Tensor = self._heads[name](hidden_SH)
        batch = batch.to(self.device)
        sums_KN = torch.stack([batch.sum_answers(values_S) for values_S in values_SK.unbind(dim=1)])
        return (sums_KN / batch.lengths()).T

    def token_values(self, name: str, batch: Pass) -> Tensor:
        """[S] fp32 output of the head of adapter `name` before each scored token, under that adapter."""
        with self.policy(name):
            hidden_SH = self.hidden(batch, batch.rows_S)
        values: Tensor = self._heads[name](hidden_SH)
        return values[:, 0]

    def hidden(self, batch: Pass, rows_N: Tensor) -> Tensor:
        """[N, H] fp32 final hidden states, after the last norm, at places of the stream; the LM head is not run."""
        self._begin_pass()
        batch = batch.to(self.device)
        with self._products():
            out = self._base.base_model(  # the decoder; peft puts its adapters into its layers
                input_ids=batch.tokens_T[None], position_ids=batch.positions_T[None], use_cache=False, spans=batch.spans
            )
        hidden_TH: Tensor = out.last_hidden_state[0]
        return hidden_TH[rows_N.to(self.device)].float()

    # Log-probs ---------------------------------------------------------------------------------------------------
    def logits(self, batch: Pass) -> Tensor:
        """[S, V] fp32 logits of the positions that predict the scored tokens, under the policy in use."""
        self._begin_pass()
        batch = batch.to(self.device)
        model = self._peft if self._peft is not None else self._base
        with self._products():
            out = model(
                input_ids=batch.tokens_T[None],
                position_ids=batch.positions_T[None],
                use_cache=False,
                logits_to_keep=batch.rows_S,
                spans=batch.spans,
            )
        logits: Tensor = out.logits[0]
        return logits.float()

    def logprobs(self, batch: Pass) -> Tensor:
        """[S] fp32 log-probs (nats) of the scored tokens under the policy in use."""
        return self.logprobs_and_entropy(batch, every=max(1, len(batch.targets_S)))[0]

    def logprobs_and_entropy(self, batch: Pass, every: int = 1) -> tuple[Tensor, Tensor]:
        """[S], [E] fp32 log-probs of the scored tokens, and the entropy (nats) of what each `every`-th was drawn from.

        The entropy carries no gradient. It takes about as long as the log-probs: for a curve some tokens will do.
        """
        targets_S = batch.targets_S.to(self.device)
        if (weight_VH := plain_head(self._base)) is not None:
            products = self._precision.products or self._precision.base
            return token_logprobs(self.hidden(batch, batch.rows_S), weight_VH, targets_S, products, every)
        logits_SV = self.logits(batch)
        with torch.no_grad():
            logprobs_EV = torch.log_softmax(logits_SV.detach()[::every], dim=-1)
            entropy_E = -(logprobs_EV.exp() * logprobs_EV).sum(dim=-1)
        return -torch.nn.functional.cross_entropy(logits_SV, targets_S, reduction="none"), entropy_E

    def logprobs_and_divergence(self, name: str, batch: Pass) -> tuple[Tensor, Tensor]:
        """[S], [S] fp32 nats: the scored tokens' log-probs by the base, KL(adapter ‖ base) before each. No gradient."""
        targets_S, weight_VH = batch.targets_S.to(self.device), plain_head(self._base)
        look = self.logits if weight_VH is None else lambda batch: self.hidden(batch, batch.rows_S)
        with torch.no_grad():
            with self.policy(name):
                own = look(batch)
            with self.policy(None):
                base = look(batch)
        if weight_VH is None:
            return divergence(own, base, targets_S)
        products = self._precision.products or self._precision.base
        return logprobs_and_divergence(own, base, weight_VH, targets_S, products)

    # Shards ------------------------------------------------------------------------------------------------------
    def idle_pass(self) -> None:
        """Lend this process's part of the base to a pass of the first one."""
        batch = make_pass([Item((0,), ((0,),))]).to(self.device)
        with torch.no_grad(), self.policy(None), self._products():
            self._base.base_model(
                input_ids=batch.tokens_T[None], position_ids=batch.positions_T[None], use_cache=False, spans=batch.spans
            )

    @contextmanager
    def keeping_gradients(self) -> Iterator[None]:
        """Within: gradients that are added up are forgotten at its end."""
        trained = [each for name in self._trained for each in self.parameters(name).values()]
        trained += [each for head in self._heads.values() for each in head.parameters()]
        kept = [each.grad for each in trained]
        for each in trained:
            each.grad = None
        yield
        for each, grad in zip(trained, kept, strict=True):
            each.grad = grad

    # Inside ------------------------------------------------------------------------------------------------------
    def _begin_pass(self) -> None:
        """Dropout falls where something is learned only: what is scored must be what the engine answers with."""
        self.crew.before_pass()
        for dropouts in self._dropouts.values():
            for dropout in dropouts:
                dropout.train(torch.is_grad_enabled())

    def _products(self) -> torch.autocast:
        """Within: products are made in the precision's own dtype."""
        products = self._precision.products
        return torch.autocast(self.device.type, dtype=products or torch.bfloat16, enabled=products is not None)

    def _thaw(self, name: str) -> None:
        """peft thaws whatever it switches to and freezes the rest: only what `add_adapter` made is to learn."""
        for parameter in self.parameters(name).values():
            parameter.requires_grad_(name in self._trained)

    def _add(self, name: str, recipe: AdapterRecipe) -> None:
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            use_rslora=recipe.kind == "rslora",
            target_modules=list(recipe.target_modules),
            bias="none",
            task_type="CAUSAL_LM",
        )
        try:
            if self._peft is None:
                self._peft = get_peft_model(self._base, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        except ValueError as error:
            raise ModelRefused(f"this base cannot take the adapter: {error}") from error
        layers = [each for each in self._peft.modules() if isinstance(each, LoraLayer) and name in each.lora_A]
        for layer in layers:
            layer.lora_variant[name] = _ScaledInside
            layer.cast_input_dtype_enabled = self._precision.products is None  # autocast would cast back again
        self._dropouts[name] = [layer.lora_dropout[name] for layer in layers] if recipe.dropout else []

    def _with_adapters(self) -> PeftModel:
        if self._peft is None:
            raise ModelRefused("no adapter was added to the base yet")
        return self._peft


class _ScaledInside:
    """Has peft compute W·x + B·(scale·A·x): the scale is put on `rank` values a token, not on the layer's output."""

    @staticmethod
    def forward(layer: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        inside = layer.lora_A[active_adapter](layer.lora_dropout[active_adapter](x)) * layer.scaling[active_adapter]
        return cast(Tensor, result + layer.lora_B[active_adapter](inside))
