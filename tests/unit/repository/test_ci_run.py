"""What .ci/run does with the checks beside the tests, by programs in place of the real ones."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_part  # it runs on Linux

RUN = (Path(__file__).resolve().parents[3] / ".ci" / "run").read_text()
README = "<!-- test command -->\n```sh\ntrue && true && {tests}\n```\n"
UV = """
[ "$1" = venv ] || exit 0  # nothing is installed
cp -r {programs} "${{@: -1}}"
"""


def write_program(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{lines}\n")
    path.chmod(0o755)


def start(folder: Path, tests: str, mypy: str) -> subprocess.Popen[str]:
    """The script in `folder`, where `tests` and `mypy` are what the README's command and the type check do."""
    programs = folder / ".venv"
    for name, lines in {"python": "", "ruff": "", "lint-imports": "", "mypy": mypy}.items():
        write_program(programs / "bin" / name, lines)
    for name in [*re.findall(r"[\w-]+(?=:[\w-]+)", RUN), "apt-get", "mount"]:  # all that it would install, too
        write_program(folder / "bin" / name, "")
    write_program(folder / "bin" / "chrt", "exit 1")  # in the class of the idle they would wait for other tests
    write_program(folder / "uv", UV.format(programs=programs))
    write_program(folder / ".ci" / "client-tools", f'mkdir -p "$1/uv/bin"; cp {folder}/uv "$1/uv/bin"')
    write_program(folder / ".ci" / "run", RUN)
    (folder / ".ci" / "constraints.txt").write_text("b==2\n")
    (folder / ".ci" / "lowest.py").write_text("print('a==1')\n")
    (folder / "README.md").write_text(README.format(tests=tests))
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "TMPDIR": str(folder)}
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen([folder / ".ci" / "run"], env=environment, text=True, stdout=pipe, stderr=joined)


@pytest.mark.parametrize(
    ("tests", "mypy", "code"), [("true", "", 0), ("true", "echo wrong; exit 3", 1), ("exit 5", "", 5)]
)
def test_a_change_lands_only_if_the_tests_and_the_checks_beside_them_pass(
    tmp_path: Path, tests: str, mypy: str, code: int
) -> None:
    ran = start(tmp_path, tests, mypy)
    said, _ = ran.communicate(timeout=60)
    assert (ran.returncode, "wrong" in said) == (code, "wrong" in mypy), said


def test_checks_beside_tests_that_fail_are_ended(tmp_path: Path) -> None:
    began = tmp_path / "began"
    ran = start(tmp_path, f"until [ -s {began} ]; do sleep 0.05; done; exit 5", f"echo $$ > {began}; exec sleep 600")
    said, _ = ran.communicate(timeout=60)
    assert ran.returncode == 5, said
    check = int(began.read_text())
    try:
        deadline_s = time.monotonic() + 10
        while is_running(check) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not is_running(check)
    finally:
        with suppress(ProcessLookupError):
            os.kill(check, signal.SIGKILL)
    assert not list(tmp_path.glob("tmp.*"))


def is_running(process: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""  # as of one for which nobody has waited yet
    return False
