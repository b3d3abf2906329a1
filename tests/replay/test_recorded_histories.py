"""Logs recorded by every released version are read by this one."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import astuple

from events.catalogue import SCHEMA_VERSIONS, Event, SessionCreated
from events.codec import decode, decode_metadata, encode, event_type
from events.integrity.chain_verifier import verify
from events.record import Head, StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import COLUMNS
from tests.replay.record import rows_of_this_version
from tests.replay.recorded_history import HISTORIES, load, write
from tests.support.log.log_files import first_fault
from tests.support.log.sample_events import ASKED, posted

FILES = sorted(HISTORIES.glob("*.ndjson"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def rows(request: pytest.FixtureRequest) -> list[StoredRow]:
    return load(request.param)


def test_some_history_was_recorded() -> None:
    assert FILES


def test_every_digest_verifies(rows: list[StoredRow]) -> None:
    assert first_fault(rows) is None


def test_every_event_decodes_to_an_event_of_its_type_that_encodes_again(rows: list[StoredRow]) -> None:
    for row in rows:
        if row.data is None:
            continue
        event = decode(row.type, row.schema_version, row.data)
        assert isinstance(event, Event)
        assert event_type(event) == row.type
        assert decode(row.type, SCHEMA_VERSIONS[row.type], encode(event)) == event
        assert isinstance(decode_metadata(row.metadata).actor, str)


def test_no_recorded_field_is_lost(rows: list[StoredRow]) -> None:
    """Renaming or removing a field would drop what people wrote, silently: unknown fields are ignored."""
    for row in rows:
        if row.data is not None and row.schema_version == SCHEMA_VERSIONS[row.type]:
            event = decode(row.type, row.schema_version, row.data)
            assert msgspec.json.decode(encode(event)) == msgspec.json.decode(row.data)


def test_the_histories_hold_every_shape_that_was_ever_written() -> None:
    recorded = {(row.type, row.schema_version) for path in FILES for row in load(path)}
    assert recorded == {(name, version) for name, newest in SCHEMA_VERSIONS.items() for version in range(1, newest + 1)}


def test_a_session_of_the_first_shape_is_lifted(rows: list[StoredRow]) -> None:
    assert rows[0].data is not None
    assert decode(rows[0].type, rows[0].schema_version, rows[0].data) == SessionCreated(
        owner="bob", metadata={"topic": "old"}, timeout_s=86_400
    )


async def test_a_log_with_that_history_is_served_and_goes_on(rows: list[StoredRow], tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await (await SqliteLog.open(path)).close()
    connection = sqlite3.connect(path)
    marks = ",".join("?" * len(COLUMNS.split(",")))
    connection.executemany(f"INSERT INTO events ({COLUMNS}) VALUES ({marks})", map(astuple, rows))
    connection.commit()
    connection.close()
    log = await SqliteLog.open(path)
    try:
        assert log.head() == Head(rows[-1].position, rows[-1].digest)
        recorded = await log.read_all(limit=1000)
        assert [event.event is None for event in recorded] == [row.data is None for row in rows]
        await log.append("new", 0, [posted("x")], ASKED)
        assert await log.rows(limit=len(rows)) == rows
        assert (await verify(log))[1] is None
    finally:
        await log.close()


async def test_a_history_holds_what_was_recorded_and_nothing_that_was_erased(tmp_path: Path) -> None:
    rows = await rows_of_this_version(tmp_path)
    text = write(rows)
    file = tmp_path / "now.ndjson"
    file.write_text(text, encoding="utf-8")
    assert load(file) == rows
    assert first_fault(rows) is None
    assert "what is erased" not in text
