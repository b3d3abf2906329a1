"""Every file with people's words is created for its owner alone, whatever the umask; existing files keep their mode."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.storage.private_file import create_private
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.log_files import log_with
from tests.support.model.model_server import ModelServer
from tests.support.service import serving


@pytest.fixture(params=[0o000, 0o022, 0o027], ids=oct, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}


def console(log: Path) -> FakeConsole:
    return FakeConsole(replace(Settings(), database=DatabaseSettings(url=str(log))))


async def test_the_files_of_a_service(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        await service.chat(await service.session(), "hi")
        found = modes(tmp_path)
        assert {"chatbot.db", "chatbot.db-wal", "chatbot.db-shm", "projections.db", "projections.db-wal"} <= set(found)
        assert {"chatbot.db-lock", "projections.db-lock"} <= set(found)
        assert {name: oct(mode) for name, mode in found.items() if mode != 0o600} == {}


async def test_the_files_of_commands(tmp_path: Path) -> None:
    log = tmp_path / "chatbot.db"
    await log_with(log, "one", "two")
    assert await run_in_process(console(log), "backup", str(tmp_path / "copy.db")) == 0
    assert await run_in_process(console(log), "export", "--output", str(tmp_path / "out.ndjson")) == 0
    assert (
        await run_in_process(console(log), "salvage", str(tmp_path / "saved.db"), "--rest", str(tmp_path / "rest")) == 0
    )
    assert await run_in_process(console(tmp_path / "in.db"), "import", str(tmp_path / "out.ndjson")) == 0
    assert await run_in_process(console(log), "rebuild") == 0
    assert {"copy.db", "out.ndjson", "saved.db", "rest", "in.db", "projections.db"} <= set(modes(tmp_path))
    assert {name: oct(mode) for name, mode in modes(tmp_path).items() if mode != 0o600} == {}


async def test_files_that_exist_keep_their_mode(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url):
        pass
    for path in tmp_path.iterdir():
        path.chmod(0o640)
    async with serving(tmp_path, model.url) as service:
        await service.session()
        assert set(modes(tmp_path).values()) == {0o640}, "a database's companion files have its mode"


async def test_an_export_never_writes_over_a_file_and_leaves_no_part_of_itself(tmp_path: Path) -> None:
    log, out = tmp_path / "chatbot.db", tmp_path / "out.ndjson"
    await log_with(log, "one")
    out.write_text("mine")
    with pytest.raises(CommandFailed, match="exists") as refused:
        await run_in_process(console(log), "export", "--output", str(out))
    assert (refused.value.code, out.read_text()) == (2, "mine")
    with pytest.raises(CommandFailed):
        await run_in_process(console(log), "export", "--session", "nobody", "--output", str(tmp_path / "part"))
    assert not (tmp_path / "part").exists()


def test_a_link_to_nothing_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    create_private(tmp_path / "link")
    assert modes(tmp_path) == {"link": 0o600, "real": 0o600}
