"""`burnish keys` and `burnish policies`: make and revoke keys; list, import, try out and move versions.

Keys are written to the ledger directly, so that they can be made before anything runs; policies are moved through
the gateway alone, which verifies them on the engine first.
"""

import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from feedback.access_keys import ApiKey, KeyStore, Scope
from feedback.connection import connect
from feedback.errors import FeedbackError
from feedback.ids import KeyId, TenantId, new_nonce
from feedback.quota import KeyLimits
from serve.access.key_files import HOME_TENANT, read_or_make
from serve.adapters.adapter_files import AdapterRefused
from serve.adapters.import_files import copy_adapter
from serve.settings import Settings

keys = typer.Typer(help="API keys: make, list, revoke.", no_args_is_help=True)
policies = typer.Typer(
    help="Policy versions: list, import, try out, promote, withdraw, roll back.", no_args_is_help=True
)

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it stays in the audit trail.")]


@keys.command("make")
def make_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for the list.")],
    scopes: Annotated[list[Scope] | None, typer.Option("--scope", "-s", help="May be given several times.")] = None,
    tenant: Annotated[str, typer.Option(help="Turns and votes of one tenant are invisible to others.")] = HOME_TENANT,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Answers asked for; no limit unless given.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Read and written; no limit unless given.")
    ] = None,
) -> None:
    """Make a key and print its secret, which cannot be shown again."""
    wanted = frozenset(scopes or (Scope.chat, Scope.feedback))
    limits = KeyLimits(requests_per_minute, tokens_per_minute)
    with _told():
        key, secret = _store(Settings.read()).make(name, wanted, TenantId(tenant), limits)
    typer.echo(f"{key.id} ({', '.join(sorted(key.scopes))}), shown this once:", err=True)
    typer.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """Every key, revoked ones too. Secrets are not kept."""
    with _told():
        rows = _store(Settings.read()).all()
    for key in rows:
        typer.echo(_key_line(key))


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="As `keys list` shows it: key-…")]) -> None:
    """Take a key back for good; the gateway knows within a second."""
    with _told():
        typer.echo(_key_line(_store(Settings.read()).revoke(KeyId(key_id))))


@policies.command("list")
def list_policies() -> None:
    """Every version, newest first; the live one is marked."""
    standing = _ask("GET", "/operator/policies")
    for policy in standing["policies"]:
        mark = {standing["live"]: "*", standing["previous"]: "-"}.get(policy["version"], " ")
        load = (policy["load"] or {}).get("state", "")
        typer.echo(f"{mark} {policy['version']:<20} {policy['state']:<10} {load:<8} {_date(policy['created_at'])}")


@policies.command("import")
def import_policy(
    directory: Annotated[Path, typer.Argument(help="As peft's save_pretrained writes it.")],
    reason: Reason,
    base_digest: Annotated[str | None, typer.Option(help="Digest of the base it was trained on, if known.")] = None,
) -> None:
    """Make an adapter from outside a candidate, after checking its files and trying it out on the engine."""
    with _told():
        settings = Settings.read()
    called = re.sub(r"[^a-z0-9._-]+", "-", directory.absolute().name.lower()).lstrip("._-")
    name = f"{called[:39] or 'adapter'}-{new_nonce()}"
    folder = settings.imports_path / name
    try:
        folder.mkdir(parents=True)
        copy_adapter(directory.absolute(), folder, settings.gateway.max_adapter_bytes)
        wanted = {"directory": name, "reason": reason, **({"base_digest": base_digest} if base_digest else {})}
        policy = _ask("POST", "/operator/policies", wanted)
    except (AdapterRefused, OSError) as error:
        typer.echo(f"burnish: {str(directory)!r} is not imported: {error}", err=True)
        raise typer.Exit(1) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if policy["already"]:
        typer.echo(f"the same adapter is here as {policy['state']}", err=True)
    typer.echo(policy["version"])


@policies.command()
def promote(version: str, reason: Reason) -> None:
    """Make a candidate live, after verifying it on the engine."""
    _report(_ask("POST", f"/operator/policies/{version}/promote", {"reason": reason}))


@policies.command()
def canary(
    version: str,
    reason: Reason,
    share: Annotated[
        float | None, typer.Option(help="Share of sessions that it answers; as in the settings unless given.")
    ] = None,
    duel_share: Annotated[
        float | None, typer.Option(help="Share of prompts that both answer; as in the settings unless given.")
    ] = None,
) -> None:
    """Try a candidate out on users, beside the live version; `trial` shows how it stands."""
    rules = {name: value for name, value in (("share", share), ("duel_share", duel_share)) if value is not None}
    _report(_ask("POST", f"/operator/policies/{version}/canary", {"reason": reason, "rules": rules}))
    standing = _ask("GET", "/operator/canary")
    for line in trial_lines(standing)[:2] if standing["canary"] else ():
        typer.echo(line)


@policies.command()
def retire(version: str, reason: Reason) -> None:
    """Put a canary away that neither won nor lost."""
    _report(_ask("POST", f"/operator/policies/{version}/retire", {"reason": reason}))


@policies.command()
def trial() -> None:
    """How the version that is being tried out stands by now."""
    standing = _ask("GET", "/operator/canary")
    for line in trial_lines(standing) if standing["canary"] else ["no version is being tried out"]:
        typer.echo(line)


@policies.command()
def withdraw(version: str, reason: Reason) -> None:
    """Take a version back for good; taking back the live one rolls back."""
    _report(_ask("POST", f"/operator/policies/{version}/withdraw", {"reason": reason}))


@policies.command()
def rollback(reason: Reason) -> None:
    """Make the former version live again and withdraw the present one."""
    _report(_ask("POST", "/operator/rollback", {"reason": reason}))


@contextmanager
def _told() -> Iterator[None]:
    """Ends the command with the ledger's own words instead of a traceback."""
    try:
        yield
    except FeedbackError as error:
        typer.echo(f"burnish: {error}", err=True)
        raise typer.Exit(1) from error


def _store(settings: Settings) -> KeyStore:
    return KeyStore(connect(settings.redis_url))


def _ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One call of the gateway with the home's operator key; ends the command when it is refused."""
    with _told():
        settings = Settings.read()
    request = urllib.request.Request(  # noqa: S310 - the gateway's own address
        settings.gateway_url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {read_or_make(settings.home, 'operator')}",
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            message = json.load(error)["error"]["message"]
    except OSError as error:
        message = f"the gateway at {settings.gateway_url} does not answer ({error}); start it with `make up`"
    typer.echo(f"burnish: {message}", err=True)
    raise typer.Exit(1)


def _report(standing: dict[str, Any]) -> None:
    typer.echo(f"live {standing['live']}, a rollback would bring back {standing['previous'] or 'nothing'}")


def trial_lines(standing: dict[str, Any]) -> list[str]:
    """A canary's standing, as `/operator/canary` tells it, in a few lines."""
    decision, rules = standing["decision"], standing["rules"]
    votes = decision["numbers"]["votes"]
    counts = f"{votes['wins']} won, {votes['losses']} lost, {votes['ties']} ties, {votes['both_bad']} both bad"
    return [
        f"canary {standing['canary']} beside {standing['over']}, since {_date(standing['started_at'])}",
        f"share  {rules['share']:.0%} of sessions, {rules['duel_share']:.0%} of prompts as duels",
        f"votes  {counts}; {rules['least_votes']} decisive ones are the least to go live",
        f"wins   between {votes['lower']:.1%} and {votes['upper']:.1%} in the long run",
        f"wires  fired: {', '.join(decision['fired']) or 'none'}",
        f"so     {decision['kind']}: {decision['reason']}",
    ]


def _key_line(key: ApiKey) -> str:
    revoked = f"revoked {_date(key.revoked_at)}" if key.revoked_at else ""
    scopes = ",".join(sorted(key.scopes))
    limits = _limits(key.limits)
    return f"{key.id}  {key.name:<20} {key.tenant:<10} {scopes:<24} {limits:<24} {_date(key.created_at)} {revoked}"


def _limits(limits: KeyLimits) -> str:
    most = {"requests": limits.requests_per_minute, "tokens": limits.tokens_per_minute}
    return ", ".join(f"{limit} {kind}/min" for kind, limit in most.items() if limit is not None) or "no limits"


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
