"""The write side of projections.db: whole batches, each in one transaction with its checkpoint.

All calls block and belong to one thread, which ProjectionFile provides. `sqlite3` and not `aiosqlite`, because a batch
is a dozen statements that must stop at the first failure, and one hop to a thread costs less than a hop per statement.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from events.record import RecordedEvent
from events.storage.sqlite.wal import FileLossDetector
from projections.errors import InvalidProjection
from projections.folds.batch import Changes, SessionChanges, changed_owners, fold
from projections.folds.session import Session
from projections.port import Checkpoint
from projections.session_states import SessionStates, require_following, require_found
from projections.sql import row_changes as rows
from projections.sqlite import statements as sql
from projections.sqlite.sqlite_errors import is_corrupt_or_inconsistent
from projections.sqlite.sqlite_file import BUSY_MS, connect, prepare_file

PURGE_HASHES_MAX = 200_000  # rewritten after an erasure: 0.4 seconds, in which nothing is folded
PURGE_BUSY_MS = 100  # how long a purge waits for a reader of the file

_decoder = msgspec.json.Decoder(Session)


class ProjectionWriter:
    """An open projections.db. Not for two threads."""

    def __init__(self, path: Path, *, is_temporary: bool = False) -> None:
        """Open the file, or create it. A temporary file is fast to write; it must be flushed afterwards, and deleted
        after a failure. Raises InvalidProjection if the file must be deleted first, ProjectionsUnusable if it belongs
        to another program, sqlite3.OperationalError for an error of the disk or the folder.
        """
        self._connection = connect(path)
        self._states = SessionStates()
        try:
            self.checkpoint, self._label_key = prepare_file(self._connection, path, is_temporary=is_temporary)
            self._files = FileLossDetector(path)
            self._files.remember()
            ((is_stale,),) = self._connection.execute(sql.IS_STALE).fetchall()
            self.has_erased_hashes = bool(is_stale)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def purge_erased_hashes(self) -> bool:
        """Remove copies of erased hashes, which SQLite leaves in pages that it rebalances and in the write-ahead log:
        with the key in the same file, a guess of what was erased could be confirmed. Returns whether none are left.

        Does nothing while a reader is in a transaction, nor with more than PURGE_HASHES_MAX hashes: then only a rebuild
        removes them. Raises sqlite3.Error.
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
        self.has_erased_hashes = False
        return True

    def is_file_in_place(self) -> bool:
        """Whether the open files are still those at the path, and not deleted or replaced."""
        return self._files.find_loss() is None

    def apply(self, batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> frozenset[str]:
        """Fold `batch`, which begins after the present checkpoint, and move to `checkpoint`: all or nothing.

        Returns the owners whose lists of sessions have changed, '' for none.
        Raises InvalidProjection if the file is damaged, sqlite3.Error if a retry may succeed, LogUnusable if the batch
        does not follow the checkpoint.
        """
        require_following(batch, self.checkpoint)
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
        erases = any(one.erased and one.before is not None for one in changes.sessions)
        self.has_erased_hashes = self.has_erased_hashes or erases
        self._states.keep(changes)
        return changed_owners(changes)

    def _load_states(self, batch: Sequence[RecordedEvent]) -> dict[str, Session]:
        """The states of the sessions in `batch` that are older than it."""
        states, missing = self._states.known(batch)
        if missing:
            asked = msgspec.json.encode(list(missing)).decode()
            for (state,) in self._connection.execute(sql.STATES, (asked,)).fetchall():
                session = _state(state)
                states[session.session_id] = session
        require_found(missing.difference(states), batch)
        return states

    def _write_sessions(self, sessions: Sequence[SessionChanges]) -> None:
        states, moved, whole = list[rows.Row](), list[rows.Row](), list[rows.Row]()
        for one in sessions:
            if one.is_unlisted:
                states.append(sql.state_row(one.session))
            elif _keeps_list_columns(one):
                moved.append(sql.moved_row(one.session))
            else:
                whole.append(rows.session_row(one.session))
        self._connection.executemany(sql.UPDATE_STATE, states)
        self._connection.executemany(sql.UPDATE_SESSION, moved)
        self._connection.executemany(sql.UPSERT_SESSION, whole)

    def _write(self, changes: Changes) -> None:
        many, sessions = self._connection.executemany, changes.sessions
        gone = [{"no": s.before.no, "owner": s.before.owner or ""} for s in sessions if s.erased and s.before]
        for statement in rows.ERASE_SESSION if gone else ():
            many(statement, gone)
        if gone:
            self._connection.execute(sql.MARK_STALE)
        self._write_sessions(sessions)
        many(sql.ADD_COUNT, list(changes.counts.items()))
        self._connection.execute(rows.DROP_EMPTY_COUNTS)
        labelled = [s for s in sessions if s.labels is not None]
        many(sql.DELETE_LABELS, [(s.session.no,) for s in labelled if s.before])
        many(sql.ADD_LABEL, [(label, s.session.no) for s in labelled for label in s.labels or ()])
        many(sql.INSERT_MESSAGE, [row for s in sessions for row in rows.insert_rows(s)])
        many(sql.UPDATE_MESSAGE, [row for s in sessions for row in rows.update_rows(s)])
        many(
            sql.UPDATE_TEXT_POSITION,
            [(to, s.session.no, message_id) for s in sessions for message_id, to in s.moves.items()],
        )
        many(sql.ADD_KEY, [(s.session.no, *key) for s in sessions for key in s.keys])
        many(sql.UPDATE_CALLS, [(to, s.session.no, reply_id) for s in sessions for reply_id, to in s.calls.items()])
        for changed in sessions:
            for one in changed.withdrawn:
                values = {"no": changed.session.no, **structs.asdict(one)}
                for statement in rows.WITHDRAW_MESSAGE:
                    self._connection.execute(statement, values)
        many(sql.ADD_USAGE, [(owner, *rows.usage_row(used)) for owner, used in changes.usage])
        many(
            sql.ADD_ERASED_USAGE,
            [(s.session.no, *rows.usage_row(used)) for s in sessions for used in s.erased_usage],
        )
        if gone:
            self._connection.execute(rows.DROP_EMPTIED_USAGE)


def _keeps_list_columns(changes: SessionChanges) -> bool:
    """Whether owner, status, kind and pin stay, so that UPDATE_SESSION is enough."""
    before, session = changes.before, changes.session
    return before is not None and _list_columns(before) == _list_columns(session)


def _list_columns(session: Session) -> tuple[str | None, str, str, bool]:
    return session.owner, session.status, session.kind, session.pinned


def _state(text: str) -> Session:
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidProjection(f"it is damaged ({error})") from error
