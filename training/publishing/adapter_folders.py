"""Published adapter folders: how they are named, found again, checked and cleared away. Never imports torch."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from feedback.ids import JobId, Version
from training.base.convert import digest_of
from training.errors import AdapterDamaged
from training.files import read_object

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Published:
    """An adapter folder: its version, the digest of its bytes, where it lies."""

    version: Version
    digest: str
    folder: Path


def find_published(adapters: Path, job_id: str, counter: int) -> Published | None:
    """What an earlier attempt at this job published, checked against its digest."""
    for folder in sorted(adapters.glob(f"v{counter:04d}-*")):
        manifest = read_object(folder / MANIFEST)
        if manifest.get("job_id") == job_id and manifest.get("rollout") is None:
            check_files(folder, manifest["digest"])
            return Published(Version(manifest["version"]), manifest["digest"], folder)
    return None


def check_files(folder: Path, digest: str) -> None:
    """AdapterDamaged unless the folder's bytes have this digest."""
    try:
        found = digest_of([folder / CONFIG, folder / TENSORS])
    except OSError as error:
        raise AdapterDamaged(f"{folder.name} cannot be read: {error}") from error
    if found != digest:
        raise AdapterDamaged(
            f"{folder.name}: its files have digest {found[:12]}, it was published with {digest[:12]}; "
            "restore the folder or withdraw the version"
        )


def remove_rollouts(adapters: Path, job_id: JobId, *, keep: frozenset[Version] = frozenset()) -> None:
    """Delete what a job published only to sample from, but for the versions in `keep`."""
    for folder in adapters.glob("v*"):
        manifest = read_object(folder / MANIFEST)
        is_own = manifest.get("job_id") == job_id and manifest.get("rollout") is not None
        if is_own and manifest.get("version") not in keep:
            shutil.rmtree(folder, ignore_errors=True)
