"""From settings to processes: which lines of the Procfile run, with what environment, and how each is known to work."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from honcho.environ import parse_procfile

from deploy.child import ProcessSpec
from deploy.health import has_embedded_part, http_answers_200, redis_pongs
from deploy.preflight import CannotStart, PortWish
from deploy.settings import LaunchSettings

PROCFILE = Path(__file__).with_name("Procfile")

# vLLM, Hugging Face and Gradio report home unless told not to; the model is on this disk already.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def read_procfile(path: Path) -> dict[str, str]:
    """Name → command, in the file's order."""
    commands = dict(parse_procfile(path.read_text(encoding="utf-8")).processes)
    if not commands:
        raise CannotStart(f"{path} names no process: each line is NAME: COMMAND")
    return commands


def child_environment(settings: LaunchSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """The launcher's environment with every address and folder spelled out, so that all children agree."""
    config = Path(inherited.get("BURNISH_CONFIG", "burnish.toml"))
    return {
        **_QUIET,
        **inherited,
        **({"BURNISH_CONFIG": str(config.absolute())} if config.exists() else {}),
        # `python` and `celery` in the Procfile are those of this environment, activated or not.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "BURNISH_HOME": str(settings.home),
        "BURNISH_REDIS_URL": settings.redis_url,
        "BURNISH_ENGINE_URL": settings.engine_url,
        "BURNISH_GATEWAY_URL": settings.gateway_url,
        "BURNISH_MODEL_PATH": str(settings.model_path),
    }


def wanted_ports(settings: LaunchSettings, commands: Mapping[str, str]) -> list[PortWish]:
    wishes = {
        "redis": PortWish("redis", "127.0.0.1", settings.redis.port, "BURNISH_REDIS_PORT"),
        "engine": PortWish("engine", "127.0.0.1", settings.engine.port, "BURNISH_ENGINE_PORT"),
        "gateway": PortWish("gateway", settings.gateway.host, settings.gateway.port, "BURNISH_GATEWAY_PORT"),
        "ui": PortWish("ui", settings.ui.host, settings.ui.port, "BURNISH_UI_PORT"),
    }
    return [wish for name, wish in wishes.items() if name in commands]


def ours_to_start(settings: LaunchSettings, commands: Mapping[str, str]) -> dict[str, str]:
    """Without the services that were given by URL."""
    given = {"redis": settings.redis.url, "engine": settings.engine.urls or settings.engine.url}
    return {name: command for name, command in commands.items() if not given.get(name)}


def describe(settings: LaunchSettings, commands: Mapping[str, str]) -> list[ProcessSpec]:
    """Stopping order: who takes requests, then the gateway (drained), the workers, the engine, and redis last."""
    return [_known(settings, name, command) or ProcessSpec(name, command) for name, command in commands.items()]


def _known(settings: LaunchSettings, name: str, command: str) -> ProcessSpec | None:
    match name:
        case "ui":
            return ProcessSpec(name, command, ready=lambda _: http_answers_200(settings.ui_url), stop_stage=0)
        case "gateway":
            local = f"{settings.gateway_url}/readyz"
            return ProcessSpec(name, command, ready=lambda _: http_answers_200(local), stop_stage=1, grace_s=30)
        case "worker":
            # Training shares the machine with the engine: a thread per core would take the cores it answers on.
            threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if settings.extra == "cpu" else {}
            return _celery(name, command, environment={**threads, "TOKENIZERS_PARALLELISM": "false"})
        case "beat":
            return _celery(name, command, embedded="-B" in command.split())
        case "engine":
            health = f"{settings.engine_url}/health"
            return ProcessSpec(name, command, ready=lambda _: http_answers_200(health), stop_stage=3, grace_s=30)
        case "redis":
            return ProcessSpec(name, command, ready=lambda _: redis_pongs(settings.redis.port), stop_stage=4)
    return None


def _celery(
    name: str, command: str, *, embedded: bool = False, environment: Mapping[str, str] | None = None
) -> ProcessSpec:
    """A Celery worker logs `NAME@HOST ready.` once it is connected to the broker and consumes."""
    return ProcessSpec(
        name,
        command,
        ready=lambda child: child.saw_ready_line,
        alive=has_embedded_part if embedded else lambda child: True,
        ready_line=" ready.",
        stop_stage=2,
        grace_s=30,
        environment=environment or {},
    )
