"""`--reload`: run the server as a child and start it again when code or settings change. For development."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chatbot.standard_streams import note

POLL_S = 0.5  # between two looks at the files
STOP_TIMEOUT_S = 30.0  # the child drains; a second signal then ends it at once
FOLDERS = ("chatbot", "projections", "events")
FILES = ("run.py", "config.toml", ".env")


def watched(root: Path) -> Iterator[Path]:
    """The files whose change starts the server again."""
    for folder in FOLDERS:
        yield from (root / folder).rglob("*.py")
    for name in FILES:
        yield from (folder / name for folder in {root, Path.cwd()})


def snapshot(root: Path) -> dict[Path, int]:
    """When each watched file was last written, in nanoseconds; files that are not there are left out."""
    times: dict[Path, int] = {}
    for path in watched(root):
        try:
            times[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return times


def run_reloading(root: Path, arguments: list[str]) -> int:
    """Serve until interrupted. Returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        before = snapshot(root)
        child = subprocess.Popen([sys.executable, str(root / "run.py"), *arguments])  # noqa: S603  our own program
        try:
            while snapshot(root) == before:
                time.sleep(POLL_S)
                if child.poll() is not None:
                    note("the server has ended; waiting for a change")
                    while snapshot(root) == before:
                        time.sleep(POLL_S)
            note("change seen: starting again")
            stop(child)
        except KeyboardInterrupt:
            return stop(child)


def stop(child: "subprocess.Popen[bytes]") -> int:
    """Let the child drain; after a while insist."""
    for ask in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(ask)
            try:
                child.wait(STOP_TIMEOUT_S if ask is signal.SIGTERM else None)
            except subprocess.TimeoutExpired:
                continue
    return child.returncode or 0
