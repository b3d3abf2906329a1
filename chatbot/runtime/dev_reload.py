"""`--reload` for development: runs the server as a child process and restarts it when code or settings change."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chatbot.runtime.standard_streams import print_to_stderr

POLL_S = 0.5  # between two checks of the files
STOP_TIMEOUT_S = 30.0  # the child drains; a second signal then ends it immediately
FOLDERS = ("chatbot", "projections", "events")
FILES = ("run.py", "config.toml", ".env")


def watched_files(root: Path) -> Iterator[Path]:
    """The files whose change restarts the server."""
    for folder in FOLDERS:
        yield from (root / folder).rglob("*.py")
    for name in FILES:
        yield from (folder / name for folder in {root, Path.cwd()})


def modification_times(root: Path) -> dict[Path, int]:
    """When each watched file was last written, in nanoseconds; files that do not exist are left out."""
    times: dict[Path, int] = {}
    for path in watched_files(root):
        try:
            times[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return times


def run_with_reload(root: Path, arguments: list[str]) -> int:
    """Serve until interrupted. Returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        before = modification_times(root)
        child = subprocess.Popen([sys.executable, str(root / "run.py"), *arguments])  # noqa: S603  our own program
        try:
            while modification_times(root) == before:
                time.sleep(POLL_S)
                if child.poll() is not None:
                    print_to_stderr("the server has ended; waiting for a change")
                    while modification_times(root) == before:
                        time.sleep(POLL_S)
            print_to_stderr("change seen: starting again")
            stop_child(child)
        except KeyboardInterrupt:
            return stop_child(child)


def stop_child(child: "subprocess.Popen[bytes]") -> int:
    """Send SIGTERM (drain), SIGTERM (quit), SIGKILL, each if the child has not ended after STOP_TIMEOUT_S."""
    for ask in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(ask)
            try:
                child.wait(STOP_TIMEOUT_S if ask is signal.SIGTERM else None)
            except subprocess.TimeoutExpired:
                continue
    return child.returncode or 0
