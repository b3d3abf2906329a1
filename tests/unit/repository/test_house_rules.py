"""The house's rules that no linter knows, each naming the file, the line and what to do instead."""

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = [ROOT / "run.py", *(p for d in ("events", "projections", "chatbot") for p in sorted((ROOT / d).rglob("*.py")))]
BANNED_NAMES = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
LINES_MAX = 400
VISIBLE = {
    "run.py", "config.toml", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md",
    "events", "projections", "chatbot", "tests",
}  # fmt: skip


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_a_file_is_short_and_named_for_what_it_holds() -> None:
    for path in CODE:
        assert path.stem not in BANNED_NAMES, f"{path}: name it after the concept that it holds"
        lines = path.read_text().count("\n")
        assert lines <= LINES_MAX, f"{path}: {lines} lines; one concept per file"


def test_no_session_id_or_text_becomes_a_label_or_a_log_field() -> None:
    for path in CODE:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            logs = re.search(r"logger\.\w+\(|_log\.\w+\(", line)
            private = re.search(r"\b(session_id|content|message|text|title|metadata|secret|api_key)=", line)
            assert not (logs and private), (
                f"{path}:{number}: log counts, names and reasons, never people's words or ids"
            )


def test_nothing_else_is_visible_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= VISIBLE


def test_each_module_can_be_imported_alone() -> None:
    """In one fresh interpreter each module is imported with the others forgotten: no hidden order, no cycle."""
    modules = [module_of(path) for path in CODE if "embedded_child" not in path.name]
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    for known in [m for m in sys.modules if m.split('.')[0] in ('events', 'projections', 'chatbot', 'run')]:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_only_the_command_line_imports_the_composition_root() -> None:
    root = re.compile(r"^\s*(import|from) (run|chatbot\.wiring)\b", re.MULTILINE)
    for path in CODE[1:]:
        is_command_line = path.is_relative_to(ROOT / "chatbot" / "cli")
        assert is_command_line or not root.search(path.read_text()), f"{path}: take an argument"


def test_the_package_events_is_ours() -> None:
    """PyPI has a distribution "Events" that installs a package of the same name."""
    import events

    assert events.__file__ is not None
    assert Path(events.__file__).is_relative_to(ROOT)


def test_every_dependency_is_bounded_below_and_by_a_later_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    stated = [*project["project"]["dependencies"], *chain.from_iterable(extras), *project["build-system"]["requires"]]
    for requirement in stated:
        bounds = re.fullmatch(r"([a-z0-9-]+)>=([\d.]+),<([\d.]+)(;.*)?", requirement)
        assert bounds, f"{requirement}: state both, as in msgspec>=0.21,<1"
        parts = 2 if bounds[1] == "aiohttp" else 1  # of aiohttp also what a minor version may change is used
        lowest, beyond = ([int(one) for one in bound.split(".")] for bound in (bounds[2], bounds[3]))
        assert len(beyond) == parts, requirement
        assert beyond > lowest[:parts], requirement
