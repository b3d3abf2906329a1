"""What clients that read nothing cost: the service's peak memory while many of them hold a long answer each.

    python -m tests.bench.memory

One session of 50 MB. Each row is a service of its own, asked by connections with the smallest receive buffers; it is
measured until its memory has not grown for five seconds.
"""

import argparse
import os
import re
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.harness.bench_processes import Child, product
from tests.bench.harness.tables import describe, machine, table
from tests.bench.workloads.scale_fill import fill, session_id

TURNS = 520
TEXT_CHARS = 32_000  # of a question; an answer is twice as long
QUIET_S = 5
WAIT_TIMEOUT_S = 300
NO_MODEL = "http://127.0.0.1:9"
SESSION = f"/api/sessions/{session_id(0)}"
CASES = (
    (30, "exports", f"{SESSION}/export"),
    (30, "exports as Markdown", f"{SESSION}/export?format=markdown"),
    (8, "pages of 1,000 messages", f"{SESSION}/messages?limit=1000"),
    (200, "pages of 100 messages", f"{SESSION}/messages"),
    (200, "trails", f"{SESSION}/events"),
    (200, "feeds from the beginning", f"{SESSION}/stream?after=0"),
    (1000, "files of /docs", "/docs/swagger-ui-bundle.js"),
)


def memory_mib(child: Child) -> tuple[int, int]:
    """What the service holds now, and the most that it has held."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    found = [re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmRSS", "VmHWM")]
    held, peak = (int(one[1]) // 1024 for one in found if one)
    return held, peak


@contextmanager
def silent(url: str, path: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that ask for `path` and read nothing."""
    host, _, port = url.removeprefix("http://").partition(":")
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.socket()
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((host, int(port)))
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield made
    finally:
        for one in made:
            one.close()


def settled(child: Child, clients: list[socket.socket]) -> int:
    """The peak, once every answer has begun and memory has not grown for a while. In MiB."""
    deadline_s = time.monotonic() + WAIT_TIMEOUT_S
    last, quiet = -1, 0
    waiting = select.poll()
    for one in clients:
        waiting.register(one, select.POLLIN)
    while quiet < QUIET_S and time.monotonic() < deadline_s:
        time.sleep(1)
        _, peak = memory_mib(child)
        quiet = quiet + 1 if peak == last and len(waiting.poll(0)) == len(clients) else 0
        last = peak
    return last


def measure(log: Path, folder: Path, run: Path, case: tuple[int, str, str]) -> list[object]:
    count, name, path = case
    shutil.copy(log, folder / "chatbot.db")
    with product(folder, NO_MODEL, run, CHATBOT_AUTH_ALLOW_ANONYMOUS="true") as (child, url):
        before, _ = memory_mib(child)
        with silent(url, path, count) as clients:
            peak = settled(child, clients)
    return [f"{count:,} {name}", before, peak]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("run.py"), help="the run.py to measure, of another checkout")
    run = parser.parse_args().run.absolute()
    with tempfile.TemporaryDirectory() as name:
        log = Path(name, "log.db")
        fill(log, 1, turns=TURNS, text_chars=TEXT_CHARS)
        rows = []
        for number, case in enumerate(CASES):
            folder = Path(name, str(number))
            folder.mkdir()
            rows.append(measure(log, folder, run, case))
            shutil.rmtree(folder)
    print(describe(machine()), f"{os.cpu_count()} cores")
    print(table(["unread", "MiB before", "MiB at most"], rows))


if __name__ == "__main__":
    main()
