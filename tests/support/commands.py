"""`python run.py <command>` run to its end, as an operator does."""

import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT, environment


def command(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """On the log in `folder`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment(folder, "http://127.0.0.1:9"), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that it ended with."""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ended.stderr
    return line
