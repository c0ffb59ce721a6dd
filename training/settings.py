"""What training needs to know. An unknown name inside `[training]`, `[schedule]` or `[gate]` is refused."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from feedback.configuration import Configuration
from feedback.ids import LineName
from feedback.schedule import ScheduleRules
from training.errors import SettingsRefused


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _ForeignSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class GatewaySection(_ForeignSection):
    host: str = "127.0.0.1"
    port: int = 8000
    url: str | None = None


class RedisSection(_ForeignSection):
    port: int = 6399
    url: str | None = None


class ModelSection(_ForeignSection):
    path: Path | None = None


class LineSection(_ForeignSection):
    name: LineName = LineName("burnish")


class TrainingSection(_Section):
    """How jobs are run on this machine."""

    recipe: str = Field(default="dpo", description="Recipe of jobs that start by themselves.")
    replay: Path | None = Field(
        default=None,
        description='General text that recipes may replay, a JSON object a line: {"messages": [...], "answer": "..."}.',
    )
    recipes: Path | None = Field(default=None, description="Folder with recipes of your own, beside the built-in ones.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to train; auto takes a GPU.")
    threads: int = Field(default=1, ge=1, le=256, description="CPU cores to train on: the last ones of this process.")
    processes: int = Field(
        default=1, ge=1, le=64, description="Processes that train together, each on a GPU or CPU cores of its own."
    )
    sharding: Literal["none", "base"] = Field(
        default="none",
        description="base: each of several processes holds a part of the base's weights, where one GPU is too small.",
    )
    recompute_activations: bool = Field(
        default=False,
        description="Compute each layer's activations again in the backward pass: less memory for more time.",
    )
    max_attempts: int = Field(default=3, ge=1, le=20, description="Attempts at a job before it counts as failed.")
    lease_s: float = Field(default=30, ge=2, le=3600, description="Seconds without a heartbeat until a job is free.")
    tick_s: float = Field(default=5, ge=0.2, le=3600, description="Seconds between two looks at the schedule.")
    checkpoint_s: float = Field(default=20, ge=0, le=3600, description="Least seconds between two checkpoints.")
    keep_runs: bool = Field(
        default=False, description="Keep a finished job's checkpoints and rounds in its folder, to look at them."
    )
    stop_patience_s: float = Field(default=20, ge=1, le=600, description="Seconds a trainer has to stop by itself.")

    @property
    def shards(self) -> bool:
        """Whether the base is to be spread over processes."""
        return self.sharding == "base" and self.processes > 1


class GateSection(_Section):
    """What a candidate is asked, and the bounds it must keep. Rates are shares of answers, losses nats a token."""

    on_pass: Literal["promote", "canary", "hold"] = Field(
        default="promote",
        description="What to do with a version that passes: make it live, try it out on users first, or leave it to an "
        "operator.",
    )
    on_inconclusive: Literal["promote", "canary", "hold"] = Field(
        default="promote", description="The same where the harm checks pass and the votes are too few to decide."
    )
    prompts: int = Field(default=64, ge=64, le=4096, description="Prompts each policy answers for the harm checks.")
    max_tokens: int = Field(default=128, ge=16, le=4096, description="Longest answer sampled.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="Temperature of the samples.")
    concurrency: int = Field(default=8, ge=1, le=256, description="Samples asked for at once.")
    loss_rise_live: float = Field(default=0.25, gt=0, le=5, description="Most a base loss may rise over live.")
    loss_rise_base: float = Field(default=0.25, gt=0, le=5, description="Most it may rise over the base's own.")
    loss_fall_live: float = Field(default=0.50, gt=0, le=5, description="Most it may fall below live (loops).")
    loss_fall_base: float = Field(default=0.70, gt=0, le=5, description="Most it may fall below the base's own.")
    kl: float = Field(default=0.5, gt=0, le=50, description="Most KL from the base, nats a token.")
    repeats_rise: float = Field(default=0.08, gt=0, le=1, description="Most the share of repeated 4-grams may rise.")
    empty_rise: float = Field(default=0.08, gt=0, le=1, description="Most the share of empty answers may rise.")
    cut_rise: float = Field(default=0.20, gt=0, le=1, description="Most the share of cut-off answers may rise.")
    repeats_rise_base: float = Field(default=0.12, gt=0, le=1, description="Most repeated 4-grams may rise over base.")
    empty_rise_base: float = Field(default=0.12, gt=0, le=1, description="Most empty answers may rise over base.")
    cut_rise_base: float = Field(default=0.30, gt=0, le=1, description="Most cut-off answers may rise over base.")
    length_low: float = Field(default=0.33, gt=0, lt=1, description="Least mean length, as a ratio to live's.")
    length_high: float = Field(default=2.0, gt=1, le=20, description="Most mean length, as a ratio to live's.")
    length_low_base: float = Field(default=0.25, gt=0, lt=1, description="Least mean length, as a ratio to the base's.")
    length_high_base: float = Field(default=3.0, gt=1, le=20, description="Most mean length, as a ratio to the base's.")
    load_s: float = Field(default=180, gt=0, le=3600, description="Seconds to wait until the engine has a version.")


class Settings(Configuration):
    """Everything a worker, beat or trainer reads, with an absolute home."""

    gateway: GatewaySection = GatewaySection()
    redis: RedisSection = RedisSection()
    model: ModelSection = ModelSection()
    line: LineSection = LineSection()
    training: TrainingSection = TrainingSection()
    schedule: ScheduleRules = ScheduleRules()
    gate: GateSection = GateSection()

    @property
    def redis_url(self) -> str:
        return self.redis.url or f"redis://127.0.0.1:{self.redis.port}/0"

    @property
    def broker_url(self) -> str:
        """Celery's own database on the ledger's server."""
        address, _, query = self.redis_url.partition("?")
        server = address.rstrip("/")
        head, slash, database = server.rpartition("/")
        if slash and database.isdigit():
            server = head
        return f"{server}/1" + (f"?{query}" if query else "")

    @property
    def gateway_url(self) -> str:
        if self.gateway.url:
            return self.gateway.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.gateway.host, self.gateway.host)  # noqa: S104
        return f"http://{host}:{self.gateway.port}"

    @property
    def model_path(self) -> Path:
        return (self.model.path or self.home / "model").expanduser().absolute()

    @property
    def adapters(self) -> Path:
        return self.home / "adapters"

    @property
    def reward_models(self) -> Path:
        """Every exported reward model's folder."""
        return self.home / "reward_models"

    def job_folder(self, job_id: str) -> Path:
        return self.home / "jobs" / job_id

    def worker_key(self) -> str:
        """The key the gateway made for training."""
        return self._key("worker")

    def operator_key(self) -> str:
        return self._key("operator")

    def _key(self, name: str) -> str:
        path = self.home / f"{name}.key"
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsRefused(
                f"cannot read {path} ({error.strerror}): the gateway makes it when it first starts with this home"
            ) from error

    def base_digest(self) -> str | None:
        """The digest of the base model, or None while it is not there yet."""
        try:
            return (self.model_path / "digest.txt").read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
