"""A newcomer finds a file by its folder and name: few files in a folder, few levels, no name twice in a package."""

from collections import Counter
from pathlib import Path

import pytest

from tests.layout.imports import PACKAGES, ROOT

FILES_MAX = 18  # in one folder, without __init__.py: what fits on a screen
LEVELS_MAX = 3
COMMANDS = {
    "record.py",
    "rounds.py",
}  # of tests: `python -m tests.crash.rounds`, `python -m tests.drills.rounds` and so on
FOLDERS = [
    path
    for package in (*PACKAGES, "tests")
    for path in (ROOT / package, *sorted((ROOT / package).rglob("*")))
    if path.is_dir() and any(path.glob("*.py"))
]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_folder_has_few_files_and_lies_at_most_three_levels_deep() -> None:
    for folder in FOLDERS:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= FILES_MAX, f"{relative(folder)} has {len(files)} files: split it by purpose"
        assert len(folder.relative_to(ROOT).parts) <= LEVELS_MAX, f"{relative(folder)}: at most {LEVELS_MAX} levels"


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_two_files_of_a_package_have_the_same_name(package: str) -> None:
    allowed = {"__init__.py", "conftest.py", *COMMANDS}
    names = [path.name for path in (ROOT / package).rglob("*.py") if path.name not in allowed]
    assert [name for name, count in Counter(names).items() if count > 1] == []
