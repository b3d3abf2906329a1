"""Bounds on what somebody must read: the import chain, and the files behind one request."""

import subprocess
import sys

import pytest

from tests.layout.imports import ROOT, import_graph, longest_chain
from tests.layout.measure import REQUESTS
from tests.layout.test_folders import FILES_MAX, LEVELS_MAX
from tests.unit.repository.test_house_rules import LINES_MAX

CHAIN_MAX = 17  # a longer one takes a newcomer too long to read
CROSSED_MAX = 42


def test_the_longest_import_chain_is_short() -> None:
    chain = longest_chain(import_graph())
    assert len(chain) <= CHAIN_MAX, f"{len(chain)} modules, each importing the next:\n" + "\n".join(chain)


@pytest.mark.parametrize("path", REQUESTS)
def test_a_chat_request_crosses_few_files(path: str) -> None:
    command = [sys.executable, "-m", "tests.layout.measure", "--request", path]  # a process where nothing else has run
    crossed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert len(crossed) <= CROSSED_MAX, "\n".join([f"{len(crossed)} files:", *crossed])


def test_contributors_are_told_of_the_limits() -> None:
    text = " ".join((ROOT / ".github" / "CONTRIBUTING.md").read_text().split())
    levels = ("no", "one", "two", "three")[LEVELS_MAX]
    for limit in (
        f"{LINES_MAX} lines a file",
        f"{FILES_MAX} files a folder",
        f"{levels} levels of folders",
        f"{CHAIN_MAX} modules in the longest import chain",
        f"{CROSSED_MAX} files that one chat request crosses",
    ):
        assert limit in text, limit
