"""Copies a stranger's adapter directory: two plain files by name, through no link, never more bytes than allowed.

Whoever made the directory may change it at any time, so it is read once: what is checked and loaded is the copy.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.adapters.adapter_files import AdapterRefused
from serve.adapters.manifest import CONFIG, WEIGHTS

FOLDER_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a directory in the imports folder may be called."""
MAX_CONFIG_BYTES = 64 * 1024
_IGNORED = "README.md"  # peft writes it beside the two.
_CHUNK_BYTES = 1024 * 1024
# A pipe would hold up whoever opens it, and a link leads elsewhere.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def copy_from_folder(folder: Path, name: str, into: Path, max_bytes: int) -> None:
    """Copies the adapter directory `name` of `folder` to the empty directory `into`.

    AdapterRefused when it is no such directory, holds anything odd, is too big, or changes meanwhile.
    """
    if not re.fullmatch(FOLDER_NAME, name):
        raise AdapterRefused(f"{name[:80]!r} is no plain name of a folder (a-z, 0-9, '.', '_' and '-', at most 64)")
    copy_adapter(folder / name, into, max_bytes)


def copy_adapter(source: Path, into: Path, max_bytes: int) -> None:
    """Copies the two files of an adapter directory, as `copy_from_folder` does; `source` itself may be no link."""
    try:
        with _opened(source, os.O_DIRECTORY) as directory:
            _check_names(directory)
            left_bytes = max_bytes
            for name, most in ((CONFIG, MAX_CONFIG_BYTES), (WEIGHTS, max_bytes)):
                left_bytes -= _copy(directory, name, into / name, min(most, left_bytes))
    except OSError as error:
        raise AdapterRefused(f"it cannot be read: {error.strerror} ({_named(error, source)})") from error


def _named(error: OSError, source: Path) -> str:
    name = error.filename if isinstance(error.filename, str) else source.name
    return f"{Path(name).name[:120]!r}"


@contextmanager
def _opened(path: Path | str, more: int = 0, *, within: int | None = None) -> Iterator[int]:
    status = os.stat(path, dir_fd=within, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise AdapterRefused(f"{Path(path).name[:120]!r} is a link; copy what it points to")
    handle = os.open(path, _OPEN | more, dir_fd=within)
    try:
        yield handle
    finally:
        os.close(handle)


def _check_names(directory: int) -> None:
    found = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name not in (CONFIG, WEIGHTS, _IGNORED):
                raise AdapterRefused(
                    f"it also holds {entry.name[:120]!r}; a folder to import holds {CONFIG} and {WEIGHTS} alone "
                    f"(and {_IGNORED}, which is left out)"
                )
            _check_plain(entry.name, entry.stat(follow_symlinks=False))
            found.add(entry.name)
    lacking = [name for name in (CONFIG, WEIGHTS) if name not in found]
    if lacking:
        raise AdapterRefused(f"it lacks {' and '.join(lacking)}")


def _check_plain(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AdapterRefused(f"{name!r} is not a plain file (links, folders, pipes and devices are refused)")
    if status.st_nlink != 1:
        raise AdapterRefused(f"{name!r} has {status.st_nlink} names on the disk (a hard link); copy it")


def _copy(directory: int, name: str, target: Path, most_bytes: int) -> int:
    # Looked at before it is opened, because opening a device may already do something.
    _check_plain(name, os.stat(name, dir_fd=directory, follow_symlinks=False))
    with _opened(name, within=directory) as source:
        before = os.fstat(source)
        _check_plain(name, before)
        if before.st_size > most_bytes:
            raise AdapterRefused(f"{name} has {before.st_size} bytes; {most_bytes} are allowed")
        copied_bytes = _pour(source, target, before.st_size + 1)  # one that grows all the while would never end
        after = os.fstat(source)
    if copied_bytes != before.st_size or _stamp(before) != _stamp(after):
        raise AdapterRefused(f"{name} was changed while it was copied; import it when it is finished")
    return copied_bytes


def _pour(source: int, target: Path, most_bytes: int) -> int:
    """Copies at most so many bytes; gives how many there were."""
    copied_bytes = 0
    with target.open("xb") as file:
        while copied_bytes < most_bytes:
            chunk = os.read(source, min(_CHUNK_BYTES, most_bytes - copied_bytes))
            if not chunk:
                break
            file.write(chunk)
            copied_bytes += len(chunk)
    return copied_bytes


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
