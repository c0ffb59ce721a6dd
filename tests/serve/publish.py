"""Publishes adapters as the trainer does: files and manifest in the home, then draft and candidate in the registry."""

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.connection import connect
from feedback.ids import EventId, LineName, Version
from feedback.jobs import Claim, JobRequest, JobStore
from feedback.policies import Policy, PolicyState, version_name
from feedback.registry import Registry

LINE = LineName("burnish")
WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"
Json = dict[str, Any]
Probing = Callable[[Version, Path], Sequence[Json]]
"""Makes a manifest's probes for a version whose files lie in a directory."""


@dataclass(frozen=True)
class Publisher:
    """Publishes into one home and one Redis, for one base."""

    home: Path
    redis_url: str
    base_dir: Path
    probing: Probing

    def publish(self, made: Path, state: PolicyState = PolicyState.candidate) -> Version:
        """Moves the adapter files in `made` into the home and enters them; gives the new version."""
        claim = self._claim()
        version, digest = place(made, self.home / "adapters", self._counter(claim))
        write_manifest(self.home / "adapters" / version, self.base_dir, self.probing)
        self.enter(claim, version, digest, state)
        return version

    def enter(self, claim: Claim, version: Version, digest: str, state: PolicyState) -> None:
        """Only the registry's part."""
        registry = self._registry()
        view = registry.view()
        policy = Policy(
            version=version,
            counter=int(version[1:5]),
            state=PolicyState.draft,
            parent=view.live,
            base_digest=base_digest(self.base_dir),
            adapter=version,
            digest=digest,
            rank=16,
            created_at=time.time(),
        )
        registry.add_draft(claim, policy)
        if state is not PolicyState.draft:
            registry.judge(claim, version, state, gate={"verdict": "pass"}, metrics={})

    def _claim(self) -> Claim:
        jobs = JobStore(connect(self.redis_url), LINE)
        request = JobRequest(
            recipe="test",
            recipe_body={},
            base_digest=base_digest(self.base_dir),
            code_version="test",
            event_ids=[EventId(uuid.uuid4().hex)],
            pairs_ordinal=0,
            actor="test",
            reason="test",
        )
        claim = jobs.claim(jobs.create(request).job.id, worker="test", lease_s=600)
        assert claim is not None
        return claim

    def _counter(self, claim: Claim) -> int:
        return self._registry().reserve(claim)

    def _registry(self) -> Registry:
        return Registry(connect(self.redis_url), LINE)


def base_digest(base_dir: Path) -> str:
    return (base_dir / "digest.txt").read_text().strip()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def place(made: Path, adapters: Path, counter: int) -> tuple[Version, str]:
    """Copies the two files of `made` to `adapters/VERSION`; gives the version and its digest."""
    rows = "".join(f"{name}\0{sha256(made / name)}\n" for name in sorted((CONFIG, WEIGHTS)))
    digest = hashlib.sha256(rows.encode()).hexdigest()
    version = version_name(counter, digest)
    (adapters / version).mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copy(made / name, adapters / version / name)
    return version, digest


def write_manifest(directory: Path, base_dir: Path, probing: Probing, **changes: Any) -> None:
    """A manifest that fits the files as they are now; `changes` overrides fields of it."""
    config = json.loads((directory / CONFIG).read_text())
    files = {name: sha256(directory / name) for name in (CONFIG, WEIGHTS)}
    rows = "".join(f"{name}\0{files[name]}\n" for name in sorted(files))
    manifest = {
        "format": 1,
        "version": directory.name,
        "base_digest": base_digest(base_dir),
        "digest": hashlib.sha256(rows.encode()).hexdigest(),
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "target_modules": config["target_modules"],
        "job_id": "job-test",
        "recipe": "test",
        "files": files,
        "probes": list(probing(Version(directory.name), directory)),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest | changes))
