"""Hashes of erased metadata and keys are in no page of projections.db, with whose key a guess could be confirmed."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from events.catalogue import SessionCreated, SessionDeleted
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from projections import erased_hash_purge
from projections.factory import create_runner
from projections.folds.blind_index import compute_key_label, compute_label
from projections.port import Checkpoint, SessionListQuery
from projections.runner import ProjectionRunner
from projections.sqlite import projection_writer as store_module
from projections.sqlite.projection_writer import ProjectionWriter
from tests.support.log.event_builders import created
from tests.support.log.memory_log import MemoryLog

SESSIONS = 120


@asynccontextmanager
async def following(log: SqliteLog, path: Path) -> AsyncIterator[ProjectionRunner]:
    runner = create_runner(path, log)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = await SqliteLog.open(tmp_path / "log.db")
    yield opened
    await opened.close()


async def filled(log: SqliteLog, runner: ProjectionRunner) -> None:
    """Sessions that are folded a few at a time, so that pages are split and joined, and every other one deleted."""
    for n in range(SESSIONS):
        event = SessionCreated(None, {"user_id": f"u{n}", "app": "web"}, 3600, idempotency_key=f"k{n}")
        await log.append(f"s{n}", 0, [event], Metadata())
        if n % 3 == 0:
            await runner.wait_for(log.head().position)
    for n in range(0, SESSIONS, 2):
        await log.erase(f"s{n}", 1, SessionDeleted("request"), Metadata())
        if n % 8 == 0:
            await runner.wait_for(log.head().position)
    await runner.wait_for(log.head().position)


def copies(path: Path) -> int:
    """Erased hashes that are in some file of the projections."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        ((key,),) = connection.execute("SELECT label_key FROM meta")
    content = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    hashes = [compute_label(key, "user_id", f"u{n}") for n in range(0, SESSIONS, 2)]
    hashes += [compute_key_label(key, f"k{n}") for n in range(0, SESSIONS, 2)]
    return sum(one.to_bytes(8, "big", signed=True) in content for one in hashes)


async def test_none_is_left_soon_after_an_erasure_and_what_is_not_erased_is_found(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "projections.db"
    monkeypatch.setattr(erased_hash_purge, "PURGE_INTERVAL_S", 1e6)
    async with following(log, path) as runner:
        await filled(log, runner)
        assert await asyncio.to_thread(copies, path), "but for the first removal they would be left"
        runner._purge._next_at_s = 0.0
        runner.retry()
        async with asyncio.timeout(20):
            while runner._store.has_erased_hashes:
                await asyncio.sleep(0.01)
        assert await asyncio.to_thread(copies, path) == 0
        found = (
            await runner.queries.list_sessions(SessionListQuery(metadata={"user_id": "u7", "app": "web"}))
        ).sessions
        assert [one.session_id for one in found] == ["s7"]
        (no,) = {one.no for one in found}
        assert len(await runner.queries.positions_of_key(no, "k7")) == 1


async def test_a_process_that_ends_leaves_none(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erased_hash_purge, "PURGE_INTERVAL_S", 1e6)
    async with following(log, tmp_path / "projections.db") as runner:
        await filled(log, runner)
    assert copies(tmp_path / "projections.db") == 0


async def test_a_removal_that_fails_stops_no_folding_and_is_done_later(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "projections.db"

    def full(store: ProjectionWriter) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ProjectionWriter, "purge_erased_hashes", full)
        async with following(log, path) as runner:
            await filled(log, runner)
            assert runner.failure is None
    async with following(log, path):
        pass
    assert copies(path) == 0


def erased_store(path: Path) -> ProjectionWriter:
    """An open file in which something was erased."""
    told, store = MemoryLog(), ProjectionWriter(path)
    told.record("kept", created("alice", user_id="u1"))
    told.record("gone", created("alice", user_id="u0"))
    for batch in (told.events[:2], [told.erase_now("gone", SessionDeleted("x", "alice"))]):
        store.apply(batch, Checkpoint(batch[-1].position, b"digest", b"identity"))
    return store


def test_what_is_to_be_removed_is_known_after_a_crash(tmp_path: Path) -> None:
    erased_store(tmp_path / "p.db").close()
    store = ProjectionWriter(tmp_path / "p.db")
    assert store.has_erased_hashes
    assert store.purge_erased_hashes()
    store.close()
    again = ProjectionWriter(tmp_path / "p.db")
    assert not again.has_erased_hashes
    again.close()


def test_it_waits_for_a_reader_and_leaves_very_many_to_a_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = erased_store(tmp_path / "p.db")
    with closing(sqlite3.connect(tmp_path / "p.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM labels").fetchall()
        assert not store.purge_erased_hashes()
        assert store.has_erased_hashes
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "PURGE_HASHES_MAX", 0)
        assert not store.purge_erased_hashes()
    assert store.purge_erased_hashes()
    store.close()
