"""Whatever is done to a log that holds every kind of event, `verify` finds it and says where."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.catalogue import ERASURE_TYPES
from events.integrity.chain_verifier import ChainFault, ChainVerifier, verify
from events.integrity.hash_chain import GENESIS, commit, link
from events.options import LogOptions
from events.record import Head, StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import TRIGGERS
from events.transfer.changed_rows import with_data
from tests.support.log.log_files import first_fault
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_EVENT, deleted, posted
from tests.support.nightly import scaled

KINDS = len(EVERY_EVENT)
FIRST = 4  # position of the first event of stream "every"; before it a stream of three that is erased
LENGTH = FIRST - 1 + KINDS + 1
PLACES = range(FIRST, FIRST + KINDS)

COLUMNS = {
    "position": "-position",
    "stream_id": "stream_id || 'x'",
    "version": "version + 1000",
    "type": "'session_' || type",
    "schema_version": "schema_version + 1",
    "recorded_at": "recorded_at + 1",
    "metadata": "json_set(metadata, '$.actor', 'somebody else')",
    "data": "json_set(data, '$.forged', 1)",
    "salt": "randomblob(16)",
    "commitment": "randomblob(32)",
    "digest": "randomblob(32)",
}
BYTES = ("stream_id", "type", "metadata", "data", "salt", "commitment", "digest")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "log.db"

    async def fill() -> None:
        log = await SqliteLog.open(path)
        await log.append("gone", 0, [posted("one"), posted("two")], ASKED)
        await log.erase("gone", 2, deleted(), ASKED)
        await put_sample_files(log)
        for version, event in enumerate(EVERY_EVENT):
            await log.append("every", version, [event], ASKED)
        await log.append("other", 0, [posted("last")], ASKED)
        await log.close()

    asyncio.run(fill())
    return path


@pytest.fixture
def database(whole_file: Path, tmp_path: Path) -> Path:
    """A copy without its triggers."""
    copy = Path(shutil.copy(whole_file, tmp_path / "log.db"))
    tamper(copy, *(f"DROP TRIGGER {name}" for name in TRIGGERS))
    return copy


def tamper(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def found(database: Path, expected_head: Head | None = None, start: Head | None = None) -> ChainFault | None:
    log = await SqliteLog.open(database, read_only=True)
    try:
        return (await verify(log, ChainVerifier(expected_head, start)))[1]
    finally:
        await log.close()


async def rows_of(database: Path) -> list[StoredRow]:
    log = await SqliteLog.open(database, read_only=True)
    try:
        return await log.rows(limit=10_000)
    finally:
        await log.close()


async def test_the_log_holds_every_kind_of_event_and_is_whole(database: Path) -> None:
    rows = await rows_of(database)
    assert len(rows) == LENGTH
    assert {row.type for row in rows} >= {row.type for row in rows[FIRST - 1 : -1]}
    assert len({row.type for row in rows[FIRST - 1 : -1]}) == len({type(event) for event in EVERY_EVENT})
    assert await found(database) is None


@pytest.mark.parametrize("column", COLUMNS)
async def test_each_column_of_each_kind_of_event_is_protected(database: Path, tmp_path: Path, column: str) -> None:
    for position in PLACES:
        copy = Path(shutil.copy(database, tmp_path / f"{position}.db"))
        tamper(copy, f"UPDATE events SET {column} = {COLUMNS[column]} WHERE position = {position}")
        fault = await found(copy)
        assert fault is not None, position
        # A row that was moved below the first is met first of all.
        assert fault.position == (1 if column == "position" else position)


@pytest.mark.parametrize("column", BYTES)
async def test_a_single_bit_of_any_text_or_hash_is_protected(database: Path, column: str) -> None:
    for row in (await rows_of(database))[FIRST - 1 :]:
        original = getattr(row, column)
        raw = original.encode() if isinstance(original, str) else original
        for at in {0, len(raw) // 2, len(raw) - 1}:
            flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            changed = flipped.decode(errors="surrogateescape") if isinstance(original, str) else flipped
            walk = ChainVerifier(start=Head(row.position - 1, await digest_before(database, row.position)))
            fault = walk.check(replace(row, **{column: changed}))
            assert fault is not None
            assert fault.position == row.position


async def digest_before(database: Path, position: int) -> bytes:
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT digest FROM events WHERE position = ?", (position - 1,)).fetchone()
    return bytes(found[0]) if found else GENESIS


@pytest.mark.parametrize("position", PLACES)
async def test_each_kind_of_event_is_missed_when_it_is_deleted(database: Path, position: int) -> None:
    tamper(database, f"DELETE FROM events WHERE position = {position}")
    fault = await found(database)
    assert fault is not None
    assert fault.position == position


@pytest.mark.parametrize("position", [FIRST, FIRST + 5, LENGTH - 1])
async def test_an_event_is_missed_when_the_others_close_the_gap(database: Path, position: int) -> None:
    tamper(
        database,
        f"DELETE FROM events WHERE position = {position}",
        f"UPDATE events SET position = position - 1, version = version - (stream_id = 'every')"
        f" WHERE position > {position}",
    )
    fault = await found(database)
    assert fault is not None
    assert fault.position == position


@pytest.mark.parametrize("position", [*PLACES][:-1])
async def test_neighbours_that_changed_places_are_found(database: Path, position: int) -> None:
    tamper(
        database,
        f"UPDATE events SET position = -1 WHERE position = {position}",
        f"UPDATE events SET position = {position} WHERE position = {position + 1}",
        f"UPDATE events SET position = {position + 1} WHERE position = -1",
    )
    fault = await found(database)
    assert fault is not None
    assert fault.position == position


@pytest.mark.parametrize("place", [LENGTH + 1, LENGTH + 2, 0, -1, -(2**63), 2**63 - 1])
async def test_an_inserted_event_is_found_wherever_it_hides(database: Path, place: int) -> None:
    """Also at the lowest integer there is: reading a stream by its versions would have shown it."""
    tamper(
        database,
        f"INSERT INTO events SELECT {place}, stream_id, 2, type, schema_version, recorded_at, metadata, data, salt,"
        f" commitment, digest FROM events WHERE position = {LENGTH}",
    )
    fault = await found(database)
    assert fault is not None
    assert fault.position == (LENGTH + 1 if place > 0 else 1)


@pytest.mark.parametrize("cut", range(1, 6))
async def test_a_cut_tail_is_found_beside_what_was_noted(database: Path, cut: int) -> None:
    last = (await rows_of(database))[-1]
    expected_head = Head(last.position, last.digest)
    tamper(database, f"DELETE FROM events WHERE position > {LENGTH - cut}")
    assert await found(database) is None
    fault = await found(database, expected_head)
    assert fault is not None
    assert fault.position == LENGTH - cut + 1


@pytest.mark.parametrize("position", PLACES)
async def test_a_chain_computed_anew_after_an_edit_is_found_beside_what_was_noted(
    database: Path, position: int
) -> None:
    rows = await rows_of(database)
    expected_head = Head(LENGTH, rows[-1].digest)
    data = (rows[position - 1].data or "").replace("}", ',"forged":1}', 1)
    forged = with_data(rows[position - 1], data.encode(), bytes)
    write_anew(database, [*rows[: position - 1], forged, *rows[position:]])
    assert await found(database) is None
    fault = await found(database, expected_head)
    assert fault is not None
    assert fault.position == LENGTH
    start = Head(position, rows[position - 1].digest)
    assert (await found(database, start=start)) == ChainFault(
        position, "the digest is not the trusted one: the chain was recomputed"
    )


def write_anew(database: Path, rows: Sequence[StoredRow]) -> None:
    """What somebody does who may write the file and knows the format."""
    digest = GENESIS
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for row in rows:
            numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
            digest = link(digest, numbers, (row.stream_id, row.type, row.metadata), row.commitment)
            connection.execute(
                "UPDATE events SET data = ?, salt = ?, commitment = ?, digest = ? WHERE position = ?",
                (row.data, row.salt, row.commitment, digest, row.position),
            )


async def test_an_erasure_that_no_event_explains_is_found_for_each_kind(database: Path, tmp_path: Path) -> None:
    rows = await rows_of(database)
    reasons = [row.position for row in rows if row.type in ERASURE_TYPES and row.stream_id == "every"]
    for position in range(FIRST, LENGTH + 1):
        copy = Path(shutil.copy(database, tmp_path / f"{position}.db"))
        tamper(copy, f"UPDATE events SET data = NULL, salt = NULL WHERE position = {position}")
        fault = await found(copy)
        if position < max(reasons):  # a later event of the stream does explain it
            assert fault is None
        else:
            assert fault == ChainFault(position, "content is gone and no later event of the stream says why")


@pytest.mark.parametrize("moved", [1, 5, -3])
async def test_bytes_cannot_be_moved_between_salt_and_data(database: Path, moved: int) -> None:
    """The commitment is over both in a row: only their lengths tell where one ends."""
    row = (await rows_of(database))[LENGTH - 1]
    salt, data = row.salt or b"", (row.data or "").encode()
    both, at = salt + data, len(salt) + moved
    walk = ChainVerifier(start=Head(LENGTH - 1, await digest_before(database, LENGTH)))
    shifted = replace(row, salt=both[:at], data=both[at:].decode(errors="surrogateescape"))
    if moved > 0:
        assert commit(shifted.salt or b"", (shifted.data or "").encode()) == row.commitment
    assert walk.check(shifted) == ChainFault(LENGTH, "the salt has another length than any log writes")


async def test_a_start_and_an_anchor_at_one_position_must_be_of_one_log(database: Path) -> None:
    rows = await rows_of(database)
    start = Head(FIRST, rows[FIRST - 1].digest)
    assert await found(database, expected_head=start, start=start) is None
    assert await found(database, expected_head=Head(FIRST, bytes(32)), start=start) == ChainFault(
        FIRST, "the digest is the trusted one, but not the one that was noted"
    )


steps = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40)


@given(steps, st.data())
@settings(max_examples=scaled(40), deadline=None)  # the disk decides how long an fsync takes
def test_any_history_verifies_before_and_after_each_erasure_whole_and_from_anywhere(
    history: list[tuple[int, int]], data: st.DataObject
) -> None:
    async def run(path: Path) -> None:
        log = await SqliteLog.open(path, LogOptions(read_connections=1))
        try:
            await grow(log)
        finally:  # a draw may end the example in the middle
            await log.close()

    async def grow(log: SqliteLog) -> None:
        versions: dict[str, int] = {}
        heads = [Head(0, GENESIS)]
        for stream, events in history:
            name = f"s{stream}"
            version = versions.setdefault(name, 0)
            if events:
                await log.append(name, version, [posted("x" * number) for number in range(events)], ASKED)
            else:
                await check(log, None)
                await log.erase(name, version, deleted(), ASKED)
                await check(log, None)
            versions[name] = version + max(events, 1)
            heads.append(log.head())
        start = data.draw(st.sampled_from(heads))
        await check(log, start if start.position else None)
        assert [row.digest for row in await log.rows(limit=1000)][-1] == log.head().digest

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "log.db"))


async def check(log: SqliteLog, start: Head | None) -> None:
    """It holds from its beginning and from `start`, with the head as anchor, and both walks end at the head."""
    head = log.head()
    expected_head = head if head.position else None
    for begin in {None, start}:
        walk, fault = await verify(log, ChainVerifier(expected_head, begin))
        assert fault is None
        assert Head(walk.position, walk.digest) == head


edits: dict[str, Callable[[StoredRow], StoredRow]] = {
    "stream_id": lambda row: replace(row, stream_id=row.stream_id + "x"),
    "version": lambda row: replace(row, version=row.version + 1),
    "type": lambda row: replace(row, type="message_copied"),
    "schema_version": lambda row: replace(row, schema_version=row.schema_version + 1),
    "recorded_at": lambda row: replace(row, recorded_at_us=row.recorded_at_us - 1),
    "metadata": lambda row: replace(row, metadata=row.metadata + " "),
    "data": lambda row: replace(row, data=(row.data or "") + " ", salt=row.salt or bytes(16)),
    "salt": lambda row: replace(row, salt=bytes(16), data=row.data or ""),
    "commitment": lambda row: replace(row, commitment=bytes(32)),
    "digest": lambda row: replace(row, digest=bytes(32)),
    "content": lambda row: replace(row, data=None, salt=None),
}


@given(st.data())
@settings(max_examples=scaled(150), deadline=None)
def test_any_one_edit_of_any_history_is_found_where_it_is(data: st.DataObject) -> None:
    rows = data.draw(histories())
    index = data.draw(st.integers(0, len(rows) - 1))
    edit = data.draw(st.sampled_from(sorted(edits)))
    changed = edits[edit](rows[index])
    fault = first_fault([*rows[:index], changed, *rows[index + 1 :]])
    if changed == rows[index] or (edit == "content" and explained(rows, index)):
        assert fault is None
    else:
        assert fault is not None
        assert fault.position == index + 1


def explained(rows: Sequence[StoredRow], index: int) -> bool:
    return any(row.type in ERASURE_TYPES and row.stream_id == rows[index].stream_id for row in rows[index + 1 :])


@st.composite
def histories(draw: st.DrawFn) -> list[StoredRow]:
    """Rows as a log writes them, some erased."""
    rows: list[StoredRow] = []
    versions: dict[str, int] = {}
    digest = GENESIS
    for position, (stream, erases) in enumerate(
        draw(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12)), start=1
    ):
        versions[stream] = versions.get(stream, 0) + 1
        kind, data, salt = "session_deleted" if erases else "message_posted", f'{{"n":{position}}}', b"s" * 16
        commitment = commit(salt, data.encode())
        digest = link(digest, (position, versions[stream], 1, position), (stream, kind, "{}"), commitment)
        if erases:
            rows = [replace(row, data=None, salt=None) if row.stream_id == stream else row for row in rows]
        rows.append(
            StoredRow(position, stream, versions[stream], kind, 1, position, "{}", data, salt, commitment, digest)
        )
    return rows
