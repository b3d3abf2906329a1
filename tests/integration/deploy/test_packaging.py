"""The wheel and an editable install, each in a virtual environment that has other packages of the same names."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest
from msgspec import Struct

from chatbot import __version__
from tests.support.service import ROOT, environment, program

NO_MODEL = "http://127.0.0.1:9"
PACKAGES = ("chatbot", "events", "projections")
FOLD = """
import asyncio, sys
from pathlib import Path
import chatbot_backend.run as script
sys.path.insert(0, str(script.find_packages()))
from projections.sqlite.rebuild_process import rebuild_in_subprocess
asyncio.run(rebuild_in_subprocess(Path("chatbot.db"), Path("folded.db"), 100))
"""


class Installed(Struct, frozen=True):
    site: Path
    python: Path
    chatbot: Path  # the console command

    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.chatbot, *arguments],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", **environment(folder, NO_MODEL)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def build(form: str, folder: Path) -> Path:
    """A wheel in `folder`, without the network."""
    hook = {"wheel": "build_wheel", "editable": "build_editable"}[form]
    script = f"import sys, hatchling.build as build; build.{hook}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def install(wheel: Path, folder: Path) -> Installed:
    """In an environment that sees the dependencies of this one, and has an `events` like that of PyPI's Events."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in (*PACKAGES, "run"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("raise RuntimeError('another distribution')\n")
    installed = Installed(site, folder / "bin" / "python", folder / "bin" / "chatbot")
    pip = (sys.executable, "-m", "pip", "--python", str(installed.python), "install", "-q", "--no-deps", "--no-index")
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return installed


def test_everything_lies_in_one_folder_of_our_own(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"chatbot_backend", f"chatbot_backend-{__version__}.dist-info"}


def test_no_file_is_left_out(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT).as_posix() for path in ours if "__pycache__" not in path.parts}
    assert {f"chatbot_backend/{name}" for name in (*wanted, "run.py", "config.toml")} <= names
    assert {f"chatbot_backend/{package}/py.typed" for package in PACKAGES} <= names


def test_an_editable_install_runs_the_checkout_beside_packages_of_the_same_names(tmp_path: Path) -> None:
    installed = install(build("editable", tmp_path), tmp_path / "venv")
    shown = installed.run(tmp_path, "config")
    assert shown.returncode == 0, shown.stderr
    assert str(ROOT / "config.toml") in shown.stdout


async def test_all_processes_of_the_wheel_run_beside_packages_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    installed = install(wheel, tmp_path / "venv")
    async with program(tmp_path, NO_MODEL, "--workers", "2", command=[str(installed.chatbot)]) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.post("/api/sessions")).status_code == 201
        assert await running.stop() == 0
        (read,) = running.log("settings.read")
        assert read["files"] == [str(installed.site / "chatbot_backend" / "config.toml")]
    folded = subprocess.run(
        [installed.python, "-c", FOLD], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert folded.returncode == 0, folded.stderr
    assert list(tmp_path.glob("folded.db*"))
