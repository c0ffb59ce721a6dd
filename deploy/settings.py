"""What the launcher needs to know."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from feedback.configuration import Configuration

Extra = Literal["cpu", "gpu"]
"""Which of the two sets of packages is installed."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class GatewaySection(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    url: str | None = None


class EngineSection(_Section):
    port: int = Field(default=8001, ge=1, le=65535)
    url: str | None = None
    urls: str | None = None


class RedisSection(_Section):
    port: int = Field(default=6399, ge=1, le=65535)
    url: str | None = None


class UiSection(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=1, le=65535)


class ModelSection(_Section):
    path: Path | None = Field(default=None, description="A folder with a safetensors model.")


class LaunchSettings(Configuration):
    """Addresses and folders of one home. `*_url` properties are what the children are told."""

    extra: Extra = Field(default_factory=lambda: installed_extra(Path(sys.prefix)))
    gateway: GatewaySection = GatewaySection()
    engine: EngineSection = EngineSection()
    redis: RedisSection = RedisSection()
    ui: UiSection = UiSection()
    model: ModelSection = ModelSection()

    @property
    def redis_url(self) -> str:
        return self.redis.url or f"redis://127.0.0.1:{self.redis.port}/0"

    @property
    def engine_url(self) -> str:
        return self.engine.url or f"http://127.0.0.1:{self.engine.port}"

    @property
    def gateway_url(self) -> str:
        return self.gateway.url or f"http://{_reachable(self.gateway.host)}:{self.gateway.port}"

    @property
    def ui_url(self) -> str:
        return f"http://{_reachable(self.ui.host)}:{self.ui.port}"

    @property
    def model_path(self) -> Path:
        return (self.model.path or self.home / "model").expanduser().absolute()


def installed_extra(environment: Path) -> Extra:
    """What `setup.sh` made the environment for; cpu where it did not make it."""
    stamp = environment / "burnish-setup"
    return "gpu" if stamp.is_file() and stamp.read_text(encoding="utf-8").startswith("gpu\n") else "cpu"


def _reachable(host: str) -> str:
    """An address to connect to, for one to listen on."""
    if host == "0.0.0.0":  # noqa: S104 - compared, never bound
        return "127.0.0.1"
    return "[::1]" if host == "::" else host
