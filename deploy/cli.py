"""The `burnish` command: `up` here, the other subcommands in the folders they are about, imported when called."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deploy.processes import PROCFILE


@dataclass(frozen=True)
class Mounted:
    """A group of subcommands: `module.attribute` is a Typer object."""

    module: str
    attribute: str
    help: str


MOUNTED = {
    "keys": Mounted("serve.cli", "keys", "API keys: make, list and revoke them."),
    "policies": Mounted("serve.cli", "policies", "Policy versions: list, import, promote, withdraw and roll back."),
    "model": Mounted("training.cli", "model", "The base model: convert it, show its digest."),
    "jobs": Mounted("training.cli", "jobs", "Training jobs: list, start, watch and cancel them."),
    "rewards": Mounted("training.cli", "rewards", "Exported reward models: list them, serve one."),
    "votes": Mounted("feedback.cli", "votes", "What people said: count and show it."),
}


class LazyGroup(TyperGroup):
    """Lists mounted groups without importing them, so that help is quick and works where one cannot be loaded."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *MOUNTED]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        mounted = MOUNTED.get(cmd_name)
        if mounted is None:
            return super().get_command(ctx, cmd_name)
        return TyperGroup(name=cmd_name, help=mounted.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        mounted = MOUNTED.get(args[0])
        if mounted is None:
            return super().resolve_command(ctx, args)
        return args[0], load(args[0], mounted), args[1:]


def load(name: str, mounted: Mounted) -> Any:
    """The mounted group itself; ends the program with the reason when it cannot be imported."""
    try:
        group = getattr(importlib.import_module(mounted.module), mounted.attribute)
    except (ImportError, AttributeError) as error:
        typer.echo(
            f"burnish {name} is not available: {error}. Run `make setup` to complete the installation.", err=True
        )
        raise typer.Exit(1) from error
    command = typer.main.get_group(group)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A chat server that gets better from what its users tell it.",
)


@app.callback()
def burnish() -> None:
    """A chat server that gets better from what its users tell it."""


@app.command()
def up(
    procfile: Annotated[
        Path, typer.Option(help="The list of processes to run.", exists=True, dir_okay=False)
    ] = PROCFILE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every line the processes print.")] = False,
) -> None:
    """Run everything on this machine; Ctrl-C stops it."""
    from deploy.launcher import run, say
    from deploy.settings import LaunchSettings
    from feedback.configuration import ConfigurationRefused

    try:
        settings = LaunchSettings.read()
    except ConfigurationRefused as error:
        say(f"cannot start: {error}")
        raise typer.Exit(1) from error
    raise typer.Exit(run(settings, procfile=procfile, verbose=verbose))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
