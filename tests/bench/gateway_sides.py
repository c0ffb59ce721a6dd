"""The sides of `make bench-gateway`, each started as its own makers advise: ours, LiteLLM's proxy, a pass-through."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.services import ROOT, answers, free_port, running, start_gateway, start_redis

LITELLM = ROOT / ".cache" / "litellm-1.109.1"
_MASTER_KEY = "sk-bench"
# Large enough never to be reached: what counts is that they are reserved and settled.
_LIMITS = {"--requests-per-minute": "100000000", "--tokens-per-minute": "10000000000"}


@dataclass(frozen=True)
class Side:
    """Where to ask, with which key, which process does the work (None: the engine itself), and what is asked for."""

    url: str
    key: str
    process: psutil.Process | None = None
    fields: Mapping[str, object] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """CPU seconds that the process has used, those of its children too."""
        assert self.process is not None
        times = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


@contextmanager
def mock_engine(work: Path, step_ms: float) -> Iterator[Side]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.bench.mock_engine", str(port), str(step_ms)]
    with running(command, log=work / "mock.log", ready=lambda: answers(f"{url}/health"), within_s=20):
        yield Side(url, "none")


@contextmanager
def ours(work: Path, model: Path, engine_url: str) -> Iterator[dict[str, Side]]:
    """The gateway as it is shipped: a key with limits, every turn on a Redis that syncs each write.

    Beside it the same process without what asks Redis: a key without limits, turns that are not kept, and neither.
    """
    with ExitStack() as stack:
        redis_url = stack.enter_context(start_redis(work / "redis"))
        home = work / "home"
        gateway = stack.enter_context(start_gateway(home, redis_url, engine_url, model=model))
        limits = [part for limit in _LIMITS.items() for part in limit]
        whole = Side(gateway.url, make_key(home, redis_url, limits), _listening(int(gateway.url.rsplit(":", 1)[1])))
        free, unkept = make_key(home, redis_url, ()), {"store": False}
        yield {
            "ours": whole,
            "no_limits": replace(whole, key=free),
            "no_turn": replace(whole, fields=unkept),
            "neither": replace(whole, key=free, fields=unkept),
        }


def make_key(home: Path, redis_url: str, limits: Sequence[str]) -> str:
    command = [sys.executable, "-m", "deploy.cli", "keys", "make", "bench", *limits]
    environment = {**os.environ, "BURNISH_HOME": str(home), "BURNISH_REDIS_URL": redis_url}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"bench: no key could be made:\n{made.stderr[-2000:]}")
    return made.stdout.split()[-1]


@contextmanager
def litellm(work: Path, engine_url: str) -> Iterator[Side]:
    """LiteLLM's proxy: one worker on uvloop and httptools, aiohttp towards the engine, no debug logs, no database."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = work / "litellm.yaml"
    work.mkdir(parents=True, exist_ok=True)
    told = {
        "model_list": [
            {
                "model_name": "burnish",
                "litellm_params": {
                    "model": "hosted_vllm/v0000-base",
                    "api_base": f"{engine_url}/v1",
                    "api_key": "none",
                    "input_cost_per_token": 0,
                    "output_cost_per_token": 0,
                },
            }
        ],
        "litellm_settings": {"num_retries": 0, "telemetry": False, "disable_aiohttp_trust_env": True},
        "general_settings": {"master_key": _MASTER_KEY, "disable_spend_logs": True},
    }
    config.write_text(json.dumps(told), encoding="utf-8")  # JSON is YAML
    program = LITELLM / "bin" / "litellm"
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    ready = f"{url}/health/liveliness"
    with running(command, log=work / "litellm.log", ready=lambda: answers(ready), within_s=180, env=environment):
        yield Side(url, _MASTER_KEY, _listening(port))


def litellm_version() -> str:
    """Of the environment of its own; SystemExit where there is none."""
    python = LITELLM / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"bench: {LITELLM} is absent: `make bench-gateway` makes it")
    asked = "import importlib.metadata as m; print(m.version('litellm'))"
    return subprocess.check_output([str(python), "-c", asked], text=True).strip()


@contextmanager
def pass_through(work: Path, engine_url: str) -> Iterator[Side]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.bench.pass_through"]
    environment = {"PORT": str(port), "ENGINE_URL": engine_url}
    ready = f"{url}/v1/models"
    with running(command, log=work / "pass.log", ready=lambda: answers(ready), within_s=20, env=environment):
        yield Side(url, "none", _listening(port))


def _listening(port: int) -> psutil.Process:
    """Which of this process's descendants serves a port."""
    for process in psutil.Process().children(recursive=True):
        if any(at.laddr.port == port and at.status == psutil.CONN_LISTEN for at in process.net_connections("tcp")):
            return process
    raise SystemExit(f"bench: nobody listens on {port}")
