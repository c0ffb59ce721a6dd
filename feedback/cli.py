"""`burnish votes`: count the votes, list them, make the ledger's view anew from its log.

The commands are a process's edge: they read which Redis and which line are meant from the environment over
`burnish.toml`, as the processes do; `--redis` and `--line` mean others for once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field

from feedback.configuration import Configuration
from feedback.connection import connect
from feedback.errors import FeedbackError
from feedback.ids import LineName
from feedback.ledger import Ledger

votes = typer.Typer(help="What people said: count, list, rebuild.", no_args_is_help=True)

Redis = Annotated[str | None, typer.Option(help="URL of the ledger's Redis, in place of the configured one.")]
Line = Annotated[str | None, typer.Option(help="The line of policies, in place of the configured one.")]


class RedisSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    port: int = Field(default=6399, ge=1, le=65535)
    url: str | None = None


class LineSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = "burnish"


class Settings(Configuration):
    """Where the ledger is."""

    redis: RedisSection = RedisSection()
    line: LineSection = LineSection()

    @property
    def redis_url(self) -> str:
        return self.redis.url or f"redis://127.0.0.1:{self.redis.port}/0"


@votes.command()
def count(redis: Redis = None, line: Line = None) -> None:
    """How many votes stand and how many pairs they make."""
    with _told():
        counts = _ledger(redis, line).vote_counts()
    typer.echo(f"{counts.events} standing, {counts.pairs} make a pair, {counts.people} ever said by people")


@votes.command("list")
def list_(redis: Redis = None, line: Line = None) -> None:
    """Every event of the log, oldest first, one JSON object a line."""
    with _told():
        for event in _ledger(redis, line).logged_events():
            typer.echo(event.model_dump_json(exclude_none=True))


@votes.command()
def rebuild(redis: Redis = None, line: Line = None) -> None:
    """Make the queryable view anew from the log. Stop the gateway first."""
    with _told():
        typer.echo(f"{_ledger(redis, line).rebuild()} events read")


def _ledger(redis: str | None, line: str | None) -> Ledger:
    settings = Settings.read()
    return Ledger(connect(redis or settings.redis_url), LineName(line or settings.line.name))


@contextmanager
def _told() -> Iterator[None]:
    """Ends the command with the ledger's own words instead of a traceback."""
    try:
        yield
    except FeedbackError as error:
        typer.echo(f"burnish: {error}", err=True)
        raise typer.Exit(1) from error
