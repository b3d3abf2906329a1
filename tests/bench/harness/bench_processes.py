"""Processes that a benchmark starts, pins to a core, measures and ends: only those, by their pid."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.programs.external_programs import free_port

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


def family(pid: int) -> list[int]:
    """A process and its descendants that run now."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stat = (folder / "stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_s(pids: Iterable[int]) -> dict[int, float]:
    """Seconds of CPU that each has used, all its threads; those that have ended are absent."""
    used: dict[int, float] = {}
    for pid in pids:
        with suppress(OSError):
            used[pid] = time.clock_gettime((~pid << 3) | 2)  # the CPU clock of another process: clock_getcpuclockid(3)
    return used


class Child:
    """A running process and its descendants."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def pids(self) -> list[int]:
        """Its pid and those of its descendants."""
        return family(self.pid)

    def cpu_s(self) -> float:
        """Seconds of CPU that all of them have used: user and system, every thread, to the nanosecond."""
        return sum(cpu_s(self.pids()).values())

    def rss_bytes(self) -> int:
        """Resident memory."""
        pages = 0
        for pid in self.pids():
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def written_bytes(self) -> int:
        """What it has caused to be written to the disk, by pages (write_bytes of proc(5))."""
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])

    def stop(self) -> None:
        """Let it end; kill it and what it has started if it does not."""
        pids = self.pids()
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def started(
    command: Sequence[str],
    *,
    folder: Path,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
    ready: str | None = None,
) -> Iterator[Child]:
    """Run `command` in `folder` on `core` (None: on any), until the end of the block.

    `ready` is a URL: the block begins when it answers without a server's error. Its output goes to `<name>.out`.
    Raises RuntimeError with the end of that output when the process ends before.
    """
    output = folder / f"{Path(command[-1 if len(command) < 2 else 1]).stem}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})  # at once: threads that it starts inherit it
    child = Child(process)
    try:
        if ready is not None and not _answers(ready, process):
            raise RuntimeError(f"{command} did not start: {output.read_text()[-2000:]}")
        yield child
    finally:
        child.stop()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status < 500:
                return True
        time.sleep(0.05)
    return False


@contextmanager
def product(
    folder: Path, model_url: str, run: Path = ROOT / "run.py", /, *, core: int | None = None, **settings: str
) -> Iterator[tuple[Child, str]]:
    """`python run.py` with its files in `folder`; gives the process and the service's URL once it is ready.

    `run` may be that of another checkout.
    `settings` are environment variables. Only warnings are logged, as in production under load.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "DATABASE_URL": str(folder / "chatbot.db"),
        "PORT": str(port),
        "LLM_SERVER_URL": model_url,
        "CHATBOT_LOGGING_LEVEL": "warning",
        **settings,
    }
    command = [sys.executable, str(run)]
    with started(command, folder=folder, core=core, environment=environment, ready=f"{url}/readyz") as child:
        yield child, url
