"""What the page needs to know."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from feedback.configuration import Configuration


class GatewaySection(BaseModel):
    """Where the gateway is; its other names are its own business."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    url: str | None = None


class LineSection(BaseModel):
    """The line whose live policy answers; its name is the public model id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = "burnish"


class UiSection(BaseModel):
    """`max_tokens`, `temperature` and `top_p` go with every chat request of the page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=1, le=65535)
    max_tokens: int = Field(default=400, ge=1)
    temperature: float = Field(default=0.8, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    streams: int = Field(default=64, ge=1, description="answers written at once, over all browsers")
    secure_cookie: bool = Field(default=False, description="set where the page is served over https only")


class Settings(Configuration):
    """The page's settings; the properties resolve what is left open."""

    gateway: GatewaySection = GatewaySection()
    line: LineSection = LineSection()
    ui: UiSection = UiSection()

    @property
    def gateway_url(self) -> str:
        return (self.gateway.url or f"http://{_reachable(self.gateway.host)}:{self.gateway.port}").rstrip("/")

    @property
    def page_key_path(self) -> Path:
        return self.home / "page.key"

    @property
    def cookie_secret_path(self) -> Path:
        return self.home / "cookie.secret"


def _reachable(host: str) -> str:
    """An address to connect to, for one to listen on."""
    if host == "0.0.0.0":  # noqa: S104 - compared, never bound
        return "127.0.0.1"
    return "[::1]" if host == "::" else host
