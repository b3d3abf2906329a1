"""A short command starts quickly: it imports neither the web server nor an HTTP client, which take most of the time."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.service import CHECKOUT, environment

HEAVY = {"aiohttp", "prometheus_client", "uvloop", "asyncpg"}


@pytest.mark.parametrize("arguments", [["config"], ["health"], ["verify"], ["keygen", "key"], ["erased", "--help"]])
def test_a_command_imports_only_what_it_needs(tmp_path: Path, arguments: list[str]) -> None:
    program = (CHECKOUT[0], "-X", "importtime", *CHECKOUT[1:])
    settings = {**os.environ, **environment(tmp_path, "http://127.0.0.1:9")}
    ran = subprocess.run(
        [*program, *arguments], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False
    )
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", ran.stderr, re.MULTILINE))
    assert "chatbot.cli.main" in imported
    assert not HEAVY & imported
