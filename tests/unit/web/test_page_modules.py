"""The chat page's modules without a browser: their own tests, run by Node. Each file in modules/ is one test here."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from chatbot.web.assets import FOLDER
from tests.support.programs.external_programs import requires_program

HERE = Path(__file__).parent / "modules"
TIMEOUT_S = 60

pytestmark = [pytest.mark.real_part, requires_program("node")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests with the page's modules beside them. Node takes .js for modules only if a package.json says so."""
    made = tmp_path_factory.mktemp("modules")
    shutil.copytree(HERE, made, dirs_exist_ok=True)
    shutil.copytree(FOLDER / "page", made / "page")
    (made / "package.json").write_text(json.dumps({"type": "module"}))
    return made


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.js")))
def test_modules(folder: Path, name: str) -> None:
    ran = subprocess.run(
        ["node", "--test", name], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# fail 0" in ran.stdout or "ℹ fail 0" in ran.stdout
