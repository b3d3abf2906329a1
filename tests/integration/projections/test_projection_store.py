"""A batch is written whole or not at all, and only the sessions that it needs are read."""

import sqlite3
from pathlib import Path

import pytest

from projections import session_states
from projections.errors import InvalidProjection
from projections.port import Checkpoint
from projections.sqlite import statements
from projections.sqlite.projection_writer import ProjectionWriter
from tests.support.log.event_builders import created, turn
from tests.support.log.memory_log import MemoryLog
from tests.support.sessions.projection_harness import contents


def apply(kept: ProjectionWriter, log: MemoryLog) -> None:
    batch = log.events[kept.checkpoint.position :]
    kept.apply(batch, Checkpoint(batch[-1].position, b"digest", b"identity"))


def test_a_batch_that_fails_at_its_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = tmp_path / "projections.db", MemoryLog()
    kept = ProjectionWriter(path)
    log.record("s", created(), *turn(1))
    apply(kept, log)
    before = contents(path)
    log.record("s", *turn(2, "r1"))
    with monkeypatch.context() as patch:
        patch.setattr(statements, "MOVE_CHECKPOINT", "UPDATE nowhere SET position = ?, digest = ?, log_identity = ?")
        with pytest.raises(InvalidProjection):
            apply(kept, log)
    assert (contents(path), kept.checkpoint.position) == (before, 4)
    apply(kept, log)
    kept.close()
    assert {row[2] for row in contents(path)["messages"]} == {"m1", "r1", "m2", "r2"}


def test_a_session_seen_lately_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = tmp_path / "projections.db", MemoryLog()
    kept = ProjectionWriter(path)
    log.record("s", created())
    apply(kept, log)
    log.record("s", *turn(1))
    monkeypatch.setattr(statements, "STATES", "this is no SQL")
    apply(kept, log)
    kept.close()


def test_sessions_that_were_let_go_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_states, "STATES_MAX", 2)
    path, log = tmp_path / "projections.db", MemoryLog()
    kept = ProjectionWriter(path)
    for n in range(3):
        for name in "abcd":
            log.record(name, created() if n == 0 else turn(n)[0])
            apply(kept, log)
            assert len(kept._states) <= 2
    kept.close()
    assert len(contents(path)["messages"]) == 4 * 2 * 2


def test_commits_survive_a_power_cut_in_order(tmp_path: Path) -> None:
    """`synchronous` is NORMAL (1): with OFF the file could be torn, and nobody would notice."""
    kept = ProjectionWriter(tmp_path / "projections.db")
    assert kept._connection.execute("PRAGMA synchronous").fetchone() == (1,)
    assert kept._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert kept._connection.execute("PRAGMA secure_delete").fetchone() == (1,)
    kept.close()
    with pytest.raises(sqlite3.ProgrammingError):
        kept._connection.execute("SELECT 1")
