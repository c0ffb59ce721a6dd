"""`burnish model`, `burnish jobs` and `burnish rewards`: make the base model; list, start, watch and cancel training
jobs through the gateway; list and serve reward models."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from feedback.errors import FeedbackError
from training.errors import TrainingError
from training.sampling.gateway import Gateway, Patience
from training.settings import Settings

_TOLD = ("margin", "reward_margin", "reward_mean")
"""What `watch` tells of a curve point beside its loss, where a loop has it."""

model = typer.Typer(help="The base model: convert it, show its digest.", no_args_is_help=True)
jobs = typer.Typer(help="Training jobs: list, start, watch and cancel them.", no_args_is_help=True)

rewards = typer.Typer(help="Exported reward models: list them, serve one.", no_args_is_help=True)

JobArgument = Annotated[str | None, typer.Argument(help="The job's id; the newest job when left out.")]


@model.command()
def convert(
    destination: Annotated[
        Path | None, typer.Argument(help="Folder to make; the configured one when left out.")
    ] = None,
) -> None:
    """Make the default base model's folder, or give an existing one its digest."""
    from training.base.convert import main

    with _told():
        raise typer.Exit(main([str(destination or Settings.read().model_path)]))


@model.command()
def digest() -> None:
    """Compute the digest of the configured base model from its files."""
    from training.base.convert import model_digest

    with _told():
        typer.echo(model_digest(Settings.read().model_path))


@jobs.command("list")
def list_jobs() -> None:
    """Every recent job, newest first."""
    with _told():
        for job in _gateway().get("/operator/jobs")["jobs"]:
            typer.echo(_line(job))


@jobs.command()
def start(
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why now; it stays with the job.")],
    recipe: Annotated[str | None, typer.Option(help="The recipe; the configured one when left out.")] = None,
) -> None:
    """Train now on every vote that stands, whatever the schedule says."""
    body = {"reason": reason} | ({"recipe": recipe} if recipe else {})
    with _told():
        typer.echo(_line(_gateway().post("/operator/jobs", body)))


@jobs.command()
def cancel(
    job_id: Annotated[str, typer.Argument(help="The job's id, as `jobs list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept with the job.")],
) -> None:
    """End a job that waits or runs; once it has ended, it may be started again."""
    with _told():
        typer.echo(_line(_gateway().post(f"/operator/jobs/{job_id}/cancel", {"reason": reason})))


@jobs.command()
def watch(job_id: JobArgument = None, every_s: Annotated[float, typer.Option(min=0.2)] = 2.0) -> None:
    """Follow a job until it ends; exits with 1 when it failed."""
    with _told():
        gateway = _gateway()
        job_id = job_id or _newest(gateway)
        shown = ""
        while True:
            job = gateway.get(f"/operator/jobs/{job_id}")
            line = _line(job) + (f"  {told(job['curve'][-1])}" if job["curve"] else "")
            if line != shown:
                typer.echo(line)
                shown = line
            if job["state"] in ("done", "failed"):
                break
            time.sleep(every_s)
        for check in (job["report"].get("gate") or {}).get("checks", ()):
            typer.echo(f"  {check['verdict']:<12} {check['title']}: {check['words']}")
        if job["error"]:
            typer.echo(job["error"], err=True)
        raise typer.Exit(int(job["state"] == "failed"))


@rewards.command("list")
def list_rewards() -> None:
    """Every exported reward model, with what it is worth on held-out votes."""
    from training.rewards.reward_files import manifest_of

    with _told():
        for folder in sorted(Settings.read().reward_models.glob("[!.]*")):
            if (manifest := manifest_of(folder)) is not None:
                typer.echo(f"{manifest['name']:<30} {_worth(manifest.get('report'))}")


@rewards.command("serve")
def serve_reward(
    name: Annotated[str, typer.Argument(help="As `rewards list` shows it.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8002,
) -> None:
    """Reward answers over HTTP until Ctrl-C: POST /score and /compare."""
    from training.rewards.scorer import serve

    with _told():
        settings = Settings.read()
        serve(settings, settings.reward_models / name, host, port)


def _worth(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "no held-out votes to judge it by"
    return f"right on {report['accuracy']:.0%} [{report['low']:.0%}, {report['high']:.0%}] of {report['pairs']} votes"


def _newest(gateway: Gateway) -> str:
    found = gateway.get("/operator/jobs")["jobs"]
    if not found:
        typer.echo("burnish: there is no job yet; start one with: burnish jobs start --reason …", err=True)
        raise typer.Exit(1)
    return str(found[0]["id"])


def _line(job: Mapping[str, Any]) -> str:
    version = job["version"] or ""
    return f"{job['id']}  {job['state']:<8} {job['progress']:4.0%}  {job['stage']:<32} {job['recipe']:<8} {version}"


def told(point: Mapping[str, Any]) -> str:
    """A curve point in words; loops differ in what theirs have."""
    more = (f"{name.replace('_', ' ')} {point[name]:+.2f}" for name in _TOLD if point.get(name) is not None)
    part = f"{point['part']}, " if "part" in point else ""
    return f"{part}step {point['step']}: " + ", ".join([f"loss {point['loss']:.3f}", *more])


def _gateway() -> Gateway:
    settings = Settings.read()
    return Gateway(settings.gateway_url, settings.operator_key(), settings.line.name, Patience(total_s=1, pause_s=0.5))


@contextmanager
def _told() -> Iterator[None]:
    """Ends the command with the reason instead of a traceback."""
    try:
        yield
    except (TrainingError, FeedbackError) as error:
        typer.echo(f"burnish: {error}", err=True)
        raise typer.Exit(1) from error
