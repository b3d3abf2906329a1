"""A test that hangs fails, wherever it hangs, and the next one runs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HANGS = """
import asyncio
import time

import pytest


@pytest.fixture
async def endless():
    yield
    await asyncio.Event().wait()


async def test_fixture_of_a_failed_test(endless):
    raise AssertionError


async def test_task_for_which_nobody_waits():
    task = asyncio.create_task(asyncio.to_thread(time.sleep, 0))
    task.add_done_callback(lambda _: time.sleep(60))
    await asyncio.Event().wait()


def test_next():
    pass
"""


def test_a_hang_is_a_failure_also_where_pytest_timeout_has_no_limit(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    script = (
        "import sys, pytest, tests.support.time_limits as limits\n"
        "limits.REPEAT_S = 0.2\n"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[limits]))\n"
    )
    options = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--timeout", "0.5")
    command = (sys.executable, "-c", script, *options, f"--rootdir={tmp_path}", str(tmp_path))
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert "2 failed, 1 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "the fixtures have not ended after 0.5 s" in ran.stdout
