"""Every gate finds every tampered row: verify, the start check, export and import, migrate, prove and salvage."""

import hashlib
import io
import json
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import astuple, replace

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.maintenance.export_import import export_log
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.errors import LogDamaged, MigrationRefused
from events.factory import open_log
from events.integrity.chain_verifier import verify
from events.integrity.hash_chain import commit
from events.integrity.startup_check import check_integrity
from events.log import EventLog
from events.record import StoredRow
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import COLUMNS, TRIGGERS
from events.transfer.export_format import ExportFileError, ExportReader
from events.transfer.log_recovery import CorruptLog, RowStatus
from events.transfer.migration import migrate, open_target
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.log_files import foreign
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.postgres_server import PostgresServer

Edit = Callable[[StoredRow], StoredRow]
PLACE = 4  # position of the row that is tampered with; 1 and 2 are erased


def shifted(row: StoredRow, moved: int) -> StoredRow:
    """The same bytes, and so the same commitment, with another place where the salt ends and the data begins."""
    both, end = (row.salt or b"") + (row.data or "").encode(), len(row.salt or b"") + moved
    return replace(row, salt=both[:end], data=both[end:].decode())


def rewritten(row: StoredRow) -> StoredRow:
    """Another text, with a commitment that fits it."""
    data = (row.data or "").replace("four", "five")
    return replace(row, data=data, commitment=commit(row.salt or b"", data.encode()))


EDITS: dict[str, Edit] = {
    "a byte moved from data to salt": lambda row: shifted(row, 1),
    "a byte moved from salt to data": lambda row: shifted(row, -1),
    "the salt moved to the data": lambda row: shifted(row, -16),
    "the data moved to the salt": lambda row: shifted(row, len(row.data or "")),
    "another text": lambda row: replace(row, data=(row.data or "").replace("four", "five")),
    "another text and commitment": rewritten,
    "another salt": lambda row: replace(row, salt=b"z" * 16),
    "another commitment": lambda row: replace(row, commitment=bytes(32)),
    "another digest": lambda row: replace(row, digest=bytes(32)),
    "another time": lambda row: replace(row, recorded_at_us=row.recorded_at_us + 1),
    "another caller": lambda row: replace(row, metadata=row.metadata.replace("tester", "taster")),
    "another type": lambda row: replace(row, type="message_copied"),
    "a space more": lambda row: replace(row, metadata=row.metadata + " "),
}


class TamperedLog:
    """A log that can be tampered with, in one of the stores."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    @property
    def source(self) -> Path | str:
        return self.url if self.url.startswith("postgresql:") else Path(self.url)

    async def write(self, row: StoredRow) -> None:
        """Put `row` in the place of the one at its position, past triggers and constraints."""
        if isinstance(self.source, Path):
            statements = [f"DROP TRIGGER IF EXISTS {name}" for name in TRIGGERS]
            connection = foreign(self.source, *statements, "PRAGMA ignore_check_constraints = ON")
            names = ",".join(f"{name} = ?" for name in COLUMNS.split(", "))
            connection.execute(f"UPDATE events SET {names} WHERE position = {row.position}", astuple(row))
            connection.close()
            return
        server = await asyncpg.connect(self.url)
        names = ",".join(f"{name} = ${number}" for number, name in enumerate(COLUMNS.split(", "), 1))
        await server.execute("ALTER TABLE events DISABLE TRIGGER USER")
        await server.execute(f"UPDATE events SET {names} WHERE position = {row.position}", *astuple(row))
        await server.close()


async def to_stored_row(place: TamperedLog) -> StoredRow:
    log = await open_log(place.source, read_only=True)
    (row,) = await log.rows(after=PLACE - 1, limit=1)
    await log.close()
    return row


async def read(place: TamperedLog, look: Callable[[EventLog], Awaitable[str | None]]) -> str | None:
    log = await open_log(place.source, read_only=True)
    try:
        return await look(log)
    finally:
        await log.close()


async def verified(place: TamperedLog) -> str | None:
    async def look(log: EventLog) -> str | None:
        fault = (await verify(log))[1]
        return None if fault is None else f"position {fault.position}: {fault.reason}"

    return await read(place, look)


async def started(place: TamperedLog) -> str | None:
    async def look(log: EventLog) -> str | None:
        try:
            await check_integrity(log, place.source)
        except LogDamaged as error:
            return str(error)
        return None

    return await read(place, look)


async def imported(place: TamperedLog) -> str | None:
    async def look(log: EventLog) -> str | None:
        out = io.BytesIO()
        await export_log(log, None, out)
        out.seek(0)
        try:
            list(ExportReader(out).rows())
        except ExportFileError as error:
            return str(error)
        return None

    return await read(place, look)


async def migrated(place: TamperedLog) -> str | None:
    async def look(log: EventLog) -> str | None:
        path = place.folder / f"{next(_numbers)}.db"
        target = await open_target(path)
        try:
            await migrate(log, target, lambda _: None)
        except MigrationRefused as error:
            return str(error)
        finally:
            await target.close()
        return None

    return await read(place, look)


_numbers = count()


def console(place: TamperedLog) -> FakeConsole:
    return FakeConsole(Settings(database=DatabaseSettings(url=place.url)))


async def proven(place: TamperedLog) -> str | None:
    note = str(place.folder / "checkpoint")
    try:
        await run_in_process(console(place), "prove", "--session", "a", "--checkpoint", note)
    except CommandFailed as error:
        return str(error)
    return None


async def salvaged(place: TamperedLog) -> str | None:
    wreck = CorruptLog(Path(place.url))
    try:
        faults = [one for one in wreck.scan(lambda _: None) if one.status is not RowStatus.PROVEN]
    finally:
        wreck.close()
    return f"position {faults[0].position}: {faults[0].reason}" if faults else None


GATES = {"verify": verified, "start": started, "import": imported, "migrate": migrated, "prove": proven}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> TamperedLog:
    """Salts are letters here, so that they can become data."""
    salts = (hashlib.sha256(bytes([number])).hexdigest().encode() for number in count())
    log: EventLog
    if request.param == "sqlite":
        url = str(tmp_path / "log.db")
        log = await SqliteLog.open(url, random_bytes=lambda size: next(salts)[:size])
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = await server.schema()
        log = await PostgresLog.open(url, random_bytes=lambda size: next(salts)[:size])
    place = TamperedLog(url, tmp_path)
    await log.append("gone", 0, [posted("one")], ASKED)
    await log.erase("gone", 1, deleted(), ASKED)
    await log.append("a", 0, [posted("three"), posted("four"), posted("five")], ASKED)
    await log.close()
    await run_in_process(console(place), "keygen", str(tmp_path / "key"))
    keeping = console(place)
    await run_in_process(keeping, "checkpoint", "--key", str(tmp_path / "key"))
    (tmp_path / "checkpoint").write_text("".join(f"{line}\n" for line in keeping.stdout_lines))
    return place


async def test_every_gate_finds_every_edit_of_a_row(place: TamperedLog) -> None:
    gates = GATES | ({"salvage": salvaged} if isinstance(place.source, Path) else {})
    original = await to_stored_row(place)
    for name, gate in gates.items():
        assert await gate(place) is None, name
    for edit, change in EDITS.items():
        await place.write(change(original))
        for name, gate in gates.items():
            found = await gate(place)
            assert found is not None, f"{name} passes {edit}"
            if name != "prove":  # which finds a changed digest by the root alone
                assert f"position {PLACE}" in found or f"position={PLACE}," in found, (name, edit, found)
    await place.write(original)
    for name, gate in gates.items():
        assert await gate(place) is None, name


async def test_half_an_erasure_is_found_by_every_gate(tmp_path: Path) -> None:
    """Only SQLite can be made to hold one: PostgreSQL checks its constraints always."""
    place = TamperedLog(str(tmp_path / "log.db"), tmp_path)
    log = await SqliteLog.open(place.url)
    await log.append("a", 0, [posted(text) for text in ("1", "2", "3", "4", "5")], ASKED)
    await log.close()
    row = await to_stored_row(place)
    for half in (replace(row, data=None), replace(row, salt=None)):
        await place.write(half)
        for gate in (verified, started, imported, migrated, salvaged):
            assert "together" in str(await gate(place)), gate


async def test_an_archive_is_refused_where_lengths_could_hide_an_edit(place: TamperedLog) -> None:
    """Behind a gap no digest is known, so that a longer one could take bytes from the next row's numbers."""
    log = await open_log(place.source, read_only=True)
    out = io.BytesIO()
    await export_log(log, None, out)
    await log.close()
    header, *lines, _ = out.getvalue().splitlines()
    part = {**json.loads(header), "session": "a"}
    events = [json.loads(line) for line in lines][2:]
    events[0]["digest"] += "00" * 8
    text = b"".join(json.dumps(one).encode() + b"\n" for one in (part, *events))
    trailer = json.dumps({"events": len(events), "sha256": hashlib.sha256(text).hexdigest()}, separators=(",", ":"))
    with pytest.raises(ExportFileError, match="the event before has another length"):
        list(ExportReader(io.BytesIO(text + trailer.encode() + b"\n")).rows())
