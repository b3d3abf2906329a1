"""The libraries of the chat page are in the repository as their authors published them, with their licences."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
WEB = ROOT / "chatbot" / "web"
VENDOR = WEB / "vendor"
LIBRARIES: list[dict[str, Any]] = json.loads((WEB / "vendor.json").read_text())
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library["name"])


def test_no_other_file_is_there() -> None:
    listed = {f"{library['name']}/{entry['file']}" for library in LIBRARIES for entry in library["files"]}
    assert listed == {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}


@each_library
def test_each_file_has_the_hash_in_the_list(library: dict[str, Any]) -> None:
    for entry in library["files"]:
        content = (VENDOR / library["name"] / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], f"{entry['file']}: .ci/vendor replaces files"
        assert content.decode(errors="replace").endswith(entry.get("appended", ""))


@each_library
def test_a_library_has_a_version_a_source_and_a_licence_that_the_readme_names(library: dict[str, Any]) -> None:
    assert "LICENSE" in {entry["file"] for entry in library["files"]}
    row = f"| [{library['name']}]({library['source']}) | {library['version']} | {library['licence']} |"
    assert row in (WEB / "README.md").read_text()


def test_the_package_names_the_licences_of_what_it_contains() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {library["licence"] for library in LIBRARIES} <= set(project["license"].split(" AND "))
    patterns = project["license-files"]
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert {VENDOR / library["name"] / "LICENSE" for library in LIBRARIES} <= found
