"""projections.db on disk, written by one thread: whole batches, each in one transaction with its checkpoint.

Every call here blocks, and all of them belong to one thread; the runner sees to that. `sqlite3` and not `aiosqlite`,
because a batch is a dozen statements that must stop at the first failure, and one hop to a thread of our own costs
less than a hop per statement.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from events.errors import LogUnusable
from events.record import RecordedEvent
from events.storage.sqlite.wal import FileLossDetector
from projections.checkpoint import Checkpoint
from projections.errors import InvalidProjection, is_corrupt_or_inconsistent
from projections.folds.batch import Changes, SessionChanges, fold
from projections.folds.session import Session
from projections.sqlite import statements as sql
from projections.sqlite.sqlite_file import BUSY_MS, connect, prepare_file

_STATES_MAX = 20_000  # sessions kept in memory, about 1 KiB each, so that a busy one is not read for every batch

PURGE_HASHES_MAX = 200_000  # that are written anew after an erasure: 0.4 seconds, in which nothing is folded
PURGE_BUSY_MS = 100  # how long that waits for a reader of the file

_decoder = msgspec.json.Decoder(Session)


class ProjectionWriter:
    """An open projections.db. Not for two threads."""

    def __init__(self, path: Path, *, is_draft: bool = False) -> None:
        """Open the file, or create it. A draft is fast to write and must be brought to the disk afterwards; after a
        failure it is of no use. Raises Unfit when the file must be deleted first, ProjectionsUnusable when it
        belongs to another program, sqlite3.OperationalError when the disk or the folder refuses.
        """
        self._connection = connect(path)
        self._states: dict[str, Session] = {}
        try:
            self.checkpoint, self._label_key = prepare_file(self._connection, path, is_draft=is_draft)
            self._files = FileLossDetector(path)
            self._files.remember()
            ((self.has_erased_hashes,),) = self._connection.execute(sql.IS_STALE).fetchall()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def purge_erased_hashes(self) -> bool:
        """Remove copies of erased hashes, which SQLite leaves in pages that it rebalances and in the write-ahead file:
        with the key beside them, a guess of what was erased could be confirmed. Whether none is left.

        Not while a reader holds on to the file, nor with more than PURGE_HASHES_MAX hashes: then a rebuild does it.
        Raises sqlite3.Error.
        """
        execute = self._connection.execute
        if execute(sql.COUNT_HASHES, (PURGE_HASHES_MAX + 1,)).fetchone()[0] > PURGE_HASHES_MAX:
            return False
        try:
            self._connection.executescript(sql.REWRITE_HASHES)
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        execute(f"PRAGMA busy_timeout = {PURGE_BUSY_MS}")
        try:
            busy, _, _ = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        if busy:
            return False
        execute(sql.CLEAR_STALE)
        self.has_erased_hashes = 0
        return True

    def is_file_in_place(self) -> bool:
        """Whether the path still leads to the files that are open here: someone may have deleted or replaced one."""
        return self._files.find_loss() is None

    def apply(self, batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> None:
        """Fold `batch`, which begins after the present checkpoint, and move to `checkpoint`: all or none.

        Raises Unfit when the file turns out to be damaged, sqlite3.Error when it may go better the next time, and
        LogUnusable when the batch does not follow it.
        """
        next_position = self.checkpoint.position + 1
        if (batch[0].position, batch[-1].position) != (next_position, next_position + len(batch) - 1):
            raise LogUnusable(f"the log has lost events after position {self.checkpoint.position}: verify it")
        try:
            changes = fold(batch, self._load_states(batch), self._label_key)
            with self._connection:  # commits, or rolls back what an exception left unfinished
                self._connection.execute("BEGIN IMMEDIATE")
                self._write(changes)
                self._connection.execute(sql.MOVE_CHECKPOINT, structs.astuple(checkpoint))
        except sqlite3.Error as error:
            if is_corrupt_or_inconsistent(error):
                raise InvalidProjection(f"it is damaged ({error})") from error
            raise
        self.checkpoint = checkpoint
        self.has_erased_hashes = self.has_erased_hashes or int(
            any(one.erased and one.before for one in changes.sessions)
        )
        self._cache_states(changes)

    def _load_states(self, batch: Sequence[RecordedEvent]) -> dict[str, Session]:
        """The states of the sessions in `batch` that are older than it."""
        old = {recorded.stream_id for recorded in batch}
        old.difference_update(recorded.stream_id for recorded in batch if recorded.version == 1)
        states = {session_id: self._states[session_id] for session_id in old if session_id in self._states}
        missing = old.difference(states)
        if missing:
            asked = msgspec.json.encode(list(missing)).decode()
            for (state,) in self._connection.execute(sql.STATES, (asked,)).fetchall():
                session = _state(state)
                states[session.session_id] = session
        if len(states) < len(old):
            raise InvalidProjection(f"it has lost {len(old) - len(states)} sessions")
        return states

    def _cache_states(self, changes: Changes) -> None:
        for changed in changes.sessions:  # at the end, so that the front holds what was quiet for longest
            self._states.pop(changed.session.session_id, None)
            self._states[changed.session.session_id] = changed.session
        for session_id in list(self._states)[: max(0, len(self._states) - _STATES_MAX)]:
            del self._states[session_id]

    def _write(self, changes: Changes) -> None:
        many, sessions = self._connection.executemany, changes.sessions
        gone = [{"no": s.before.no, "owner": s.before.owner or ""} for s in sessions if s.erased and s.before]
        for statement in sql.ERASE_SESSION if gone else ():
            many(statement, gone)
        if gone:
            self._connection.execute(sql.MARK_STALE)
        many(sql.UPDATE_SESSION, [sql.moved_row(s.session) for s in sessions if _keeps_list_columns(s)])
        many(sql.UPSERT_SESSION, [sql.session_row(s.session) for s in sessions if not _keeps_list_columns(s)])
        many(sql.ADD_COUNT, list(changes.counts.items()))
        self._connection.execute(sql.DROP_EMPTY_COUNTS)
        labelled = [s for s in sessions if s.labels is not None]
        many(sql.DELETE_LABELS, [(s.session.no,) for s in labelled if s.before])
        many(sql.ADD_LABEL, [(label, s.session.no) for s in labelled for label in s.labels or ()])
        many(sql.INSERT_MESSAGE, [row for s in sessions for row in sql.insert_rows(s)])
        many(sql.UPDATE_MESSAGE, [row for s in sessions for row in sql.update_rows(s)])
        many(
            sql.UPDATE_TEXT_POSITION,
            [(to, s.session.no, message_id) for s in sessions for message_id, to in s.moves.items()],
        )
        many(sql.ADD_KEY, [(s.session.no, *key) for s in sessions for key in s.keys])
        many(sql.ADD_USAGE, [(owner, *sql.usage_row(used)) for owner, used in changes.usage])
        many(
            sql.ADD_ERASED_USAGE,
            [(s.session.no, *sql.usage_row(used)) for s in sessions for used in s.erased_usage],
        )
        if gone:
            self._connection.execute(sql.DROP_EMPTIED_USAGE)


def _keeps_list_columns(changes: SessionChanges) -> bool:
    """Whether the session stays where the lists have it, but for its times."""
    before, session = changes.before, changes.session
    return before is not None and (before.owner, before.status) == (session.owner, session.status)


def _state(text: str) -> Session:
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidProjection(f"it is damaged ({error})") from error
