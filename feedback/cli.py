"""`burnish votes`: count the votes, list them, make the ledger's view anew from its log."""

from typing import Annotated

import typer

from feedback.connection import connect
from feedback.ids import LineName
from feedback.ledger import Ledger

votes = typer.Typer(help="What people said: count, list, rebuild.", no_args_is_help=True)

Redis = Annotated[str, typer.Option(envvar="BURNISH_REDIS_URL", help="The ledger's Redis.")]
Line = Annotated[str, typer.Option(envvar="BURNISH_LINE_NAME", help="The line of policies.")]
_URL = "redis://127.0.0.1:6399/0"


@votes.command()
def count(redis: Redis = _URL, line: Line = "burnish") -> None:
    """How many votes stand and how many pairs they make."""
    counts = Ledger(connect(redis), LineName(line)).vote_counts()
    typer.echo(f"{counts.events} standing, {counts.pairs} make a pair, {counts.people} ever said by people")


@votes.command("list")
def list_(redis: Redis = _URL, line: Line = "burnish") -> None:
    """Every event of the log, oldest first, one JSON object a line."""
    for event in Ledger(connect(redis), LineName(line)).logged_events():
        typer.echo(event.model_dump_json(exclude_none=True))


@votes.command()
def rebuild(redis: Redis = _URL, line: Line = "burnish") -> None:
    """Make the queryable view anew from the log. Stop the gateway first."""
    typer.echo(f"{Ledger(connect(redis), LineName(line)).rebuild()} events read")
