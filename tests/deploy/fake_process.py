"""A stand-in for any process of the Procfile, for tests of the launcher alone: `fake_process.py NAME [PORT]`.

Notes its pid and that of a child in a session of its own, answers PING and HTTP on PORT, and notes when it is told to
end. All notes go to files in the folder NOTES.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

NOTES = Path(os.environ["NOTES"])


def main(name: str, port: int | None) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"],
        start_new_session=True,
    )

    def end(number: int, frame: FrameType | None) -> None:
        with (NOTES / "ended").open("a") as notes:
            notes.write(f"{name}\n")
        child.kill()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    with (NOTES / f"{name}.pids").open("a") as notes:
        notes.write(f"{os.getpid()} {child.pid}\n")
    print(f"{name}@here ready.", flush=True)
    while port is None:
        signal.pause()
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                asked = connection.recv(4096)
                pong = b"+PONG\r\n" if asked.startswith(b"PING") else b"HTTP/1.0 200 OK\r\n\r\nok"
                connection.sendall(pong)


if __name__ == "__main__":
    main(sys.argv[1], next((int(argument) for argument in sys.argv if argument.isdigit()), None))
