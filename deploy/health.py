"""Whether a process does its work yet: one question each, answered at once, never raising."""

import socket
import urllib.error
import urllib.request

import psutil

from deploy.child import Child

_PATIENCE_S = 2.0


def http_answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as response:  # noqa: S310 - our own http address
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError, ValueError):
        return False


def redis_pongs(port: int) -> bool:
    """PING on the embedded server, in Redis' inline form; no client library is needed for that."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def has_embedded_part(child: Child) -> bool:
    """Whether the command still has a process of its own below it, as a Celery worker with -B has its beat.

    Celery does not notice the death of its embedded beat, and without it nothing is scheduled any more.
    """
    try:
        parts = [part for command in psutil.Process(child.pid).children() for part in command.children()]
        return any(part.status() != psutil.STATUS_ZOMBIE for part in parts)
    except psutil.NoSuchProcess:
        return False
