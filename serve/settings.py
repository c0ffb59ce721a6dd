"""What the gateway needs to know."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from feedback.canary import CanaryRules
from feedback.configuration import Configuration
from serve.engine_settings import EngineSettings

MIB = 1024 * 1024


class _Section(BaseModel):
    """A section may hold names of another package's reading of it (the launcher's `engine`, say)."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class GatewaySection(_Section):
    """Where to listen, what one request may ask for, and how closely the ledger and the engine are watched."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    url: str | None = None
    max_body_bytes: int = Field(default=2 * MIB, ge=1024)
    max_n: int = Field(default=16, ge=1, le=128)
    turn_patience_s: float = Field(default=0.2, ge=0, description="how long a chat waits for its turn to be on disk")
    turn_queue: int = Field(default=2000, ge=1, description="turns held while Redis is away; more are dropped, counted")
    poll_s: float = Field(default=0.25, gt=0, description="how often the registry and the keys are looked at")
    quota_patience_s: float = Field(
        default=0.5, gt=0, description="how long a limited key's request waits for Redis before it is judged without"
    )
    stop_s: float = Field(
        default=10.0,
        ge=0,
        description="how long running answers may take to end at a stop; `burnish up` waits 30 s for all of it",
    )
    engine_poll_s: float = Field(default=1.0, gt=0, description="how often the engine's adapters are looked at")
    verify_tolerance_nats: float = Field(
        default=0.15, gt=0, description="mean distance per token allowed between trainer's and engine's log-probs"
    )
    max_adapter_bytes: int = Field(default=512 * MIB, ge=1024)
    imports_path: Path | None = Field(
        default=None, description="folder that adapters from outside are put in; $BURNISH_HOME/imports when not given"
    )


class RedisSection(_Section):
    port: int = Field(default=6399, ge=1, le=65535)
    url: str | None = None


class ModelSection(_Section):
    path: Path | None = None
    name: str = "SmolLM2-135M-Instruct"


class LineSection(_Section):
    name: str = "burnish"


class Settings(Configuration):
    """The gateway's settings; the properties resolve what is left open."""

    gateway: GatewaySection = GatewaySection()
    engine: EngineSettings = EngineSettings()
    redis: RedisSection = RedisSection()
    model: ModelSection = ModelSection()
    line: LineSection = LineSection()
    canary: CanaryRules = CanaryRules()

    @property
    def redis_url(self) -> str:
        return self.redis.url or f"redis://127.0.0.1:{self.redis.port}/0"

    @property
    def engine_urls(self) -> tuple[str, ...]:
        """One address per replica."""
        given = self.engine.urls or self.engine.url or f"http://127.0.0.1:{self.engine.port}"
        return tuple(dict.fromkeys(url.strip().rstrip("/") for url in given.split(",") if url.strip()))

    @property
    def gateway_url(self) -> str:
        """Where the commands find the gateway."""
        return (self.gateway.url or f"http://127.0.0.1:{self.gateway.port}").rstrip("/")

    @property
    def model_path(self) -> Path:
        return (self.model.path or self.home / "model").absolute()

    @property
    def adapters_path(self) -> Path:
        return self.home / "adapters"

    @property
    def imports_path(self) -> Path:
        """Where adapters from outside are put for the gateway to take in."""
        return (self.gateway.imports_path or self.home / "imports").absolute()
