"""Files of tensors that are there whole or not at all: written aside, flushed to disk, then renamed."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from training.files import fsync_file, fsync_folder


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically and durably, `about` in its header; its folder is made when there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    save_file(dict(tensors), aside, None if about is None else dict(about))
    fsync_file(aside)
    aside.replace(path)
    fsync_folder(path.parent, files=False)
