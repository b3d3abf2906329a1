"""run.py says in one sentence what is missing: packages, or a newer Python."""

import ast
import runpy
import subprocess
import sys

import pytest

from tests.support.service import ROOT

SCRIPT = ROOT / "run.py"


def test_an_old_python_can_read_the_file() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("version", [(3, 8, 0), (3, 9, 20), (3, 10, 99)])
def test_an_old_python_is_told_which_one_is_needed(
    version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Python 3.11 or newer is needed; this is Python ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["verify"], ["--help"]])
def test_a_python_without_the_packages_is_told_how_to_install_them(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the Python package ")
    assert "pip install -e" in done.stderr
    assert (done.stderr.count("\n"), done.stdout) == (1, "")


def test_a_missing_module_of_our_own_is_not_taken_for_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "chatbot.cli.main", None)
    with pytest.raises(ModuleNotFoundError):
        runpy.run_path(str(SCRIPT), run_name="__main__")
