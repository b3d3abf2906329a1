"""The program's version is the code's, whatever else is installed."""

import tomllib
from pathlib import Path

import pytest

from chatbot import __version__, wiring
from chatbot.cli.main import main
from tests.support.service import ROOT, serving


def test_the_package_takes_its_version_from_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "chatbot/__init__.py"


def test_the_command_line_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.split()[-1] == __version__


async def test_health_and_metrics_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "__version__", "98.7.6")
    async with serving(tmp_path, "http://127.0.0.1:9") as service:
        assert (await service.client.get("/api/health")).json()["version"] == "98.7.6"
        assert 'version="98.7.6"' in (await service.client.get("/metrics")).text
