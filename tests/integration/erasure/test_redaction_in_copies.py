"""Redactions in copies of a log: an import, a migration and a salvage keep them, and what they have kept."""

import io
import re
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest

from chatbot.cli.maintenance.export_import import export_log, import_file
from chatbot.cli.maintenance.salvage import salvage
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.catalogue import KeptEvent, MessagePosted, MessageRedacted, ReplyCompleted
from events.factory import open_log
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import NotedReferences, check_files
from events.schema.parts import Media, Reasoning, Text
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.export_format import ExportFileError
from events.transfer.importer import ImportRules
from events.transfer.migration import migrate, open_target
from tests.support.fake_console import FakeConsole
from tests.support.log.log_texts import ALL
from tests.support.log.media import put
from tests.support.log.redacting import redact
from tests.support.log.sample_events import ASKED
from tests.support.log.sample_log import created
from tests.support.programs.postgres_server import PostgresServer

SECRET = "a text that should be gone"


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A session with a redacted message, and with two parts of another redacted one after the other."""
    path = tmp_path / "source.db"
    log = await SqliteLog.open(path)
    gone, kept = [await put(log, content, holder=str(ASKED.actor)) for content in (b"1" * 5000, b"2" * 5000)]
    pictures = [Media(one.sha256, one.media_type, one.bytes) for one in (gone, kept)]
    shown = MessagePosted("m1", None, "user", "Look", "r1", parts=(*pictures, Text("Look")))
    replied = ReplyCompleted("r1", "fine", "stop", "small", 1, parts=(Reasoning(SECRET), Text("fine")))
    asked = MessagePosted("m2", "r1", "user", SECRET, node="http://10.0.0.5:8081")
    await log.append("a", 0, [created(None), shown, replied, asked], ASKED)
    for message_id, part in (("m1", 0), ("r1", 0), ("m2", None), ("m1", 2)):
        await redact(log, "a", message_id, part)
    await log.close()
    return path


async def events_of(place: Path | str) -> list[object]:
    """What the log tells of the session, once it is checked."""
    log = await open_log(place, read_only=True)
    try:
        walk, fault = await verify(log, ChainVerifier(references=(noted := NotedReferences())))
        assert (fault, walk.incomplete_erasures) == (None, [])
        assert (await check_files(log, noted)).faults == []
        assert len(await log.media.files(after="", limit=9)) == 1
        assert not any(SECRET in str(row.data) for row in await log.rows(limit=ALL))
        return [one.event for one in await log.read("a", limit=ALL)]
    finally:
        await log.close()


async def test_an_import_keeps_redactions(source: Path, tmp_path: Path) -> None:
    log, out = await SqliteLog.open(source, read_only=True), io.BytesIO()
    await export_log(log, None, out)
    await log.close()
    assert SECRET.encode() not in out.getvalue()
    (tmp_path / "new").mkdir()
    for _ in range(2):
        out.seek(0)
        await import_file(out, tmp_path / "new" / "log.db", ImportRules(resume=True))
        assert await events_of(tmp_path / "new" / "log.db") == await events_of(source)


async def test_a_salvage_keeps_redactions(source: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    options = Namespace(source=None, destination=tmp_path / "new" / "log.db", rest=None)
    assert await salvage(FakeConsole(Settings(database=DatabaseSettings(url=str(source)))), options) == 0
    assert await events_of(tmp_path / "new" / "log.db") == await events_of(source)


@pytest.mark.real_part
async def test_migrations_keep_redactions(source: Path, tmp_path: Path, postgres: PostgresServer) -> None:
    places: list[Path | str] = [source, await postgres.schema(), tmp_path / "new.db"]
    for old, new in pairwise(places):
        log, target = await open_log(old, read_only=True), await open_target(new)
        await migrate(log, target, lambda position: None)
        await target.close()
        await log.close()
        assert await events_of(new) == await events_of(source)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "its content cannot be read"),
        ('{"type":"session_strange"}', "session_strange"),
        (
            '{"type":"message_posted","parts":[{"type":"text","text":""}],"content":"","message_id":"m","parent_id":null'
            ',"role":"user"}',
            "what is left of version 1: $.parts[0].text must not be empty",
        ),
    ],
)
async def test_an_export_whose_redaction_keeps_what_no_program_could_read_is_not_imported(
    tmp_path: Path, data: str, reason: str
) -> None:
    log = await SqliteLog.open(tmp_path / "source.db")
    forged = MessageRedacted("m", "asked", versions=(1,), kept=(KeptEvent(1, 2, data),))
    await log.append("a", 0, [created(None)], ASKED)
    await log.erase("a", 1, forged, ASKED)
    exported = io.BytesIO()
    await export_log(log, None, exported)
    await log.close()
    exported.seek(0)
    with pytest.raises(ExportFileError, match=re.escape(reason)):
        await import_file(exported, tmp_path / "target.db", ImportRules())
