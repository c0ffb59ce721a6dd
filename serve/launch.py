"""Starts vLLM with the base model, ready for adapters: `python -m serve.launch` becomes the engine process."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from feedback.ids import BASE_VERSION
from serve.settings import EngineSection, Settings, load_settings

log = logging.getLogger(__name__)
_POLL_S = 0.5


def engine_arguments(engine: EngineSection, model: str) -> list[str]:
    """vLLM's command line. Every replica is called by itself, so each is one API server on loopback."""
    return [
        *("--model", model),
        *("--served-model-name", BASE_VERSION),
        *("--host", "127.0.0.1"),
        *("--port", str(engine.port)),
        *("--max-model-len", str(engine.max_model_len)),
        *("--max-num-seqs", str(engine.max_running)),
        *("--max-num-queued-reqs", str(engine.max_queued)),
        # Sampling settings are the request's or OpenAI's defaults, never a model's file.
        *("--generation-config", "vllm"),
        "--enable-lora",
        *("--max-loras", str(engine.max_loras)),
        *("--max-cpu-loras", str(2 * engine.max_loras)),
        *("--max-lora-rank", str(engine.max_lora_rank)),
        # Without patience vLLM aborts what still runs when it is asked to stop.
        *("--shutdown-timeout", str(engine.shutdown_s)),
        *("--api-server-count", "1"),
        *engine.extra_args.split(),
    ]


def engine_environment(engine: EngineSection, inherited: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """The engine's environment: adapters may be loaded while it runs, nothing is fetched or reported."""
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    cpu = {"VLLM_CPU_KVCACHE_SPACE": str(engine.kv_cache_gib)} if on_cpu else {}
    return {**quiet, **cpu, **inherited, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def wait_for_model(model: Path) -> None:
    """Returns once the conversion has written its last file. A Hugging Face id is not waited for."""
    waited = False
    while not (model / "digest.txt").exists():
        if not waited:
            log.info("waiting for the model in %s (`burnish model convert` makes it)", model)
            waited = True
        time.sleep(_POLL_S)


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the CPU package; found without importing it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Waits for the model, then replaces this process by vLLM's API server."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    if find_spec("vllm") is None:
        sys.exit("vLLM is not installed: run `make setup` (BURNISH_EXTRA=gpu on a GPU machine)")
    settings: Settings = load_settings()
    wait_for_model(settings.model_path)
    arguments = engine_arguments(settings.engine, str(settings.model_path))
    environment = engine_environment(settings.engine, os.environ, on_cpu=is_cpu_build())
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606 - the command is ours, no shell is involved


if __name__ == "__main__":
    main()
