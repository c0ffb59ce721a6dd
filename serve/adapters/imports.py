"""Imports an adapter from outside: copied, checked, written anew, tried out in the engine, then entered as a candidate.

Nothing is entered that did not stand up, and nothing half-made stays: everything happens in a folder aside, which also
notes what was moved out of it, so that whoever comes next can clear up after one that was killed.
"""

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from feedback.errors import LedgerUnavailable
from feedback.ids import Version, new_nonce
from feedback.policies import UNSERVED, Policy, PolicyState, RegistryView, same_bytes, version_name
from feedback.registry import Registry, Why
from serve.adapters.adapter_files import AdapterRefused
from serve.adapters.import_check import Checked, Limits, rewrite
from serve.adapters.import_files import copy_from_folder
from serve.adapters.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest, Probe
from serve.errors import BadRequest, Conflict, Unavailable

_ASIDE = ".import-"
_LOCK = ".imports.lock"
_MOVED = "moved"
_COPY, _OURS = "copy", "ours"


class TryOut(Protocol):
    """Loads what lies in a directory under a version's name, notes what it scores, unloads it: `try_out`."""

    async def __call__(self, version: Version, directory: Path) -> tuple[Probe, ...]: ...


@dataclass(frozen=True)
class ImportRules:
    """`imports` is the folder that directories are taken from, `adapters` where versions lie."""

    imports: Path
    adapters: Path
    base_digest: str
    limits: Limits


@dataclass(frozen=True)
class Order:
    """What an operator asks for; `base_digest` where the one who made the adapter knows which base it is for."""

    directory: str
    why: Why
    base_digest: str | None = None


@dataclass(frozen=True)
class Importer:
    rules: ImportRules
    registry: Registry
    try_out: TryOut
    accept: Callable[[RegistryView], None]

    async def bring_in(self, order: Order) -> tuple[Policy, bool]:
        """The new candidate and True; or, for an adapter that is known, its policy and False.

        BadRequest says why an adapter is refused; Conflict for one that was withdrawn or rejected; Unavailable while
        another import runs, and where the engine or the ledger is away. After any of them nothing is left, but for a
        ledger that went away at the last step: then the next import, or the next start, finds out and clears up.
        """
        served = self.rules.base_digest
        if order.base_digest not in (None, served):
            message = f"it was made for base {str(order.base_digest)[:12]!r}; the engine serves {served[:12]!r}"
            raise BadRequest(message, param="base_digest", code="adapter_refused")
        with self._alone() as is_mine:
            if not is_mine:
                raise Unavailable("another adapter is being imported; send the request again", code="import_running")
            view = await asyncio.to_thread(self.registry.view)
            await asyncio.to_thread(self._clear_up, view.policies)
            try:
                return await self._bring_in(order, view)
            except AdapterRefused as error:
                message = f"{order.directory!r} is not imported: {error}"
                raise BadRequest(message, param="directory", code="adapter_refused") from error

    def clear_up(self) -> None:
        """Removes what imports that were killed have left; does nothing while one runs."""
        with self._alone() as is_mine:
            if is_mine:
                self._clear_up(self.registry.view().policies)

    async def _bring_in(self, order: Order, view: RegistryView) -> tuple[Policy, bool]:
        aside = self.rules.adapters / f"{_ASIDE}{new_nonce()}"
        is_finishing = False
        try:
            checked = await asyncio.to_thread(self._take_in, aside, order.directory)
            known = same_bytes(view, checked.digest)
            if known is not None:
                return _unless_unserved(known), False
            version = await asyncio.to_thread(self._name, checked.digest)
            ours = (aside / _OURS).rename(aside / version)
            probes = await self.try_out(version, ours)
            policy = _policy(version, checked, self.rules.base_digest)
            _write_manifest(ours, policy, checked, probes)
            is_finishing = True
            entered = await asyncio.to_thread(self._finish, aside, policy, order)
        finally:
            if not is_finishing:
                shutil.rmtree(aside, ignore_errors=True)
        self.accept(entered)
        return entered.policy(version), True

    def _take_in(self, aside: Path, directory: str) -> Checked:
        (aside / _COPY).mkdir(parents=True)
        (aside / _OURS).mkdir()
        copy_from_folder(self.rules.imports, directory, aside / _COPY, self.rules.limits.max_bytes)
        checked = rewrite(aside / _COPY, aside / _OURS, self.rules.limits, directory)
        shutil.rmtree(aside / _COPY)
        return checked

    def _name(self, digest: str) -> Version:
        # A ledger that was restored from an older copy gives counters out again whose folders are there.
        while True:
            version = version_name(self.registry.new_counter(), digest)
            if not (self.rules.adapters / version).exists():
                return version

    def _move_out(self, aside: Path, version: Version) -> None:
        """The folder gets its name when it is whole and on disk; before that, what to look after is noted."""
        for name in (CONFIG, MANIFEST, WEIGHTS):
            _fsync(aside / version / name)
        _fsync(aside / version)
        (aside / _MOVED).write_text(version, encoding="utf-8")
        _fsync(aside / _MOVED)
        _fsync(aside)
        (aside / version).rename(self.rules.adapters / version)
        _fsync(self.rules.adapters)

    def _finish(self, aside: Path, policy: Policy, order: Order) -> RegistryView:
        """The last steps; they clear up after themselves, because a caller who is cancelled no longer can."""
        try:
            self._move_out(aside, policy.version)
            numbers = {} if policy.imported is None else policy.imported.model_dump()
            view = self.registry.enter_import(policy, replace(order.why, numbers=numbers))
        except LedgerUnavailable:
            raise  # Whether it was entered is not known: the note stays, and the next to come looks after it.
        except Exception:
            _undo(self.rules.adapters, aside, known=())
            raise
        _undo(self.rules.adapters, aside, known=(policy.version,))
        return view

    def _clear_up(self, known: Container[str]) -> None:
        for aside in self.rules.adapters.glob(f"{_ASIDE}*"):
            _undo(self.rules.adapters, aside, known)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether this is the only import, of all gateways on this folder, until the block ends."""
        self.rules.adapters.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.rules.adapters / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(handle)


def _undo(adapters: Path, aside: Path, known: Container[str]) -> None:
    """Removes a folder aside, and what was moved out of it unless the registry has it."""
    moved = aside / _MOVED
    if moved.exists():
        version = moved.read_text(encoding="utf-8")
        if version and version not in known and version == Path(version).name:
            shutil.rmtree(adapters / version, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _unless_unserved(known: Policy) -> Policy:
    if known.state in UNSERVED and known.state is not PolicyState.draft:
        raise Conflict(
            f"this very adapter is {known.version}, which is {known.state}: it does not come back by an import",
            code="move_refused",
        )
    return known


def _policy(version: Version, checked: Checked, base_digest: str) -> Policy:
    return Policy(
        version=version,
        counter=int(version[1:].partition("-")[0]),
        state=PolicyState.candidate,
        base_digest=base_digest,
        adapter=version,
        digest=checked.digest,
        rank=checked.rank,
        created_at=time.time(),
        imported=checked.imported,
    )


def _write_manifest(directory: Path, policy: Policy, checked: Checked, probes: tuple[Probe, ...]) -> None:
    manifest = Manifest(
        format=1,
        version=policy.version,
        base_digest=policy.base_digest,
        digest=checked.digest,
        rank=checked.rank,
        alpha=checked.alpha,
        target_modules=checked.target_modules,
        files=checked.files,
        probes=probes,
        probed_by="engine",
        imported=checked.imported,
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _fsync(path: Path) -> None:
    """Flushes a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
