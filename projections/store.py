"""projections.db on disk, written by one thread: whole batches, each in one transaction with its checkpoint.

Every call here blocks, and all of them belong to one thread; the runner sees to that. `sqlite3` and not `aiosqlite`,
because a batch is a dozen statements that must stop at the first failure, and one hop to a thread of our own costs
less than a hop per statement.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from events.record import RecordedEvent
from projections import statements as sql
from projections.batch import Changes, fold
from projections.checkpoint import Checkpoint
from projections.errors import ProjectionsUnusable, Unfit
from projections.labels import LABEL_KEY_BYTES
from projections.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from projections.session import Session

_BUSY_MS = 5_000  # how long another program (a backup, a shell) may hold the file before an apply fails and is retried
_CACHE_KIB = 32 * 1024  # pages of the b-trees that a rebuild writes to at random
_WAL_PAGES = 4_000  # 16 MiB of changes between copies into the main file: a tenth of the writes that 1,000 makes
_CHECKED_BYTES_MAX = 64 * 2**20  # whole file read at start up to here, a third of a second; damage beyond shows in use
_STATES_MAX = 20_000  # sessions kept in memory, about 1 KiB each, so that a busy one is not read for every batch

_decoder = msgspec.json.Decoder(Session)


class ProjectionStore:
    """An open projections.db. Not for two threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it. Raises Unfit when it must be deleted first, ProjectionsUnusable when it
        belongs to another program, sqlite3.OperationalError when the disk or the folder refuses.
        """
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._states: dict[str, Session] = {}
        try:
            self._configure()
            self._create_or_check()
        except BaseException:
            self._connection.close()
            raise
        self._inode = path.stat().st_ino

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    def close(self) -> None:
        self._connection.close()

    def is_linked(self) -> bool:
        """Whether the path still leads to the file that is open here: someone may have deleted or replaced it."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def apply(self, batch: Sequence[RecordedEvent], digest: bytes, identity: bytes) -> None:
        """Fold `batch`, which continues at the checkpoint, and keep the result, all or none.

        `digest` is the log's at the last event of the batch, `identity` that at position 1. Raises sqlite3.Error.
        """
        changes = fold(batch, self._load(batch), self._label_key)
        checkpoint = Checkpoint(batch[-1].position, digest, identity)
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._write(changes)
            self._connection.execute(sql.MOVE_CHECKPOINT, (checkpoint.position, digest, identity))
        self._checkpoint = checkpoint
        self._remember(changes)

    def _configure(self) -> None:
        for name, value in {
            "busy_timeout": _BUSY_MS,
            "cache_size": -_CACHE_KIB,
            "wal_autocheckpoint": _WAL_PAGES,
            "secure_delete": "ON",
            "temp_store": "MEMORY",
            "synchronous": "OFF",
        }.items():
            self._connection.execute(f"PRAGMA {name} = {value}")

    def _create_or_check(self) -> None:
        try:
            (owner,) = self._connection.execute("PRAGMA application_id").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.DatabaseError as error:
            if is_passing(error):
                raise
            raise Unfit(f"it cannot be read ({error})") from error
        if owner == 0 and tables == 0:
            self._create()
        elif owner != APPLICATION_ID:
            raise ProjectionsUnusable(f"{self._path} is a database of something else; choose another projections path")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._check()

    def _create(self) -> None:
        key = secrets.token_bytes(LABEL_KEY_BYTES)
        self._connection.executescript(f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; {TABLES}")
        self._connection.execute("INSERT INTO meta VALUES (1, ?, ?, 0, ?, ?)", (SCHEMA_VERSION, b"", b"", key))
        self._connection.execute("COMMIT")

    def _check(self) -> None:
        try:
            (version,) = self._connection.execute("SELECT schema_version FROM meta").fetchone() or (None,)
            if version != SCHEMA_VERSION:
                raise Unfit(f"its tables have version {version}, this program's {SCHEMA_VERSION}")
            row = self._connection.execute("SELECT position, digest, log_identity, label_key FROM meta").fetchone()
            position, digest, identity, self._label_key = row
            if self._path.stat().st_size <= _CHECKED_BYTES_MAX:
                (answer,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
                if answer != "ok":
                    raise Unfit(f"it is damaged ({answer})")
        except sqlite3.DatabaseError as error:
            if is_passing(error):
                raise
            raise Unfit(f"it is damaged ({error})") from error
        self._checkpoint = Checkpoint(position, digest, identity)

    def _load(self, batch: Iterable[RecordedEvent]) -> dict[str, Session]:
        """The states of the sessions in `batch` that are older than it."""
        old = {recorded.stream_id for recorded in batch} - {recorded.stream_id for recorded in batch if is_first(recorded)}
        states = {stream_id: self._states[stream_id] for stream_id in old if stream_id in self._states}
        unknown = msgspec.json.encode([stream_id for stream_id in old if stream_id not in states]).decode()
        if len(states) < len(old):
            for (state,) in self._connection.execute(sql.STATES, (unknown,)):
                session = _decoder.decode(state)
                states[session.session_id] = session
        return states

    def _remember(self, changes: Changes) -> None:
        for changed in changes.sessions:
            self._states.pop(changed.session.session_id, None)
            self._states[changed.session.session_id] = changed.session
        for session_id in list(self._states)[: max(0, len(self._states) - _STATES_MAX)]:
            del self._states[session_id]

    def _write(self, changes: Changes) -> None:
        many = self._connection.executemany
        sessions = changes.sessions
        gone = [(s.before.no, s.before.owner or "") for s in sessions if s.erased and s.before]
        if gone:
            for statement in sql.ERASE_SESSION:
                many(statement, gone)
        labelled = [s for s in sessions if s.labels is not None]
        many(sql.FORGET_LABELS, [(s.session.no,) for s in labelled if s.before])
        many(sql.ADD_LABEL, [(label, s.session.no) for s in labelled for label in s.labels or ()])
        many(sql.KEEP_SESSION, [sql.session_row(s.session) for s in sessions])
        many(sql.INSERT_MESSAGE, [row for s in sessions for row in sql.insert_rows(s)])
        many(sql.UPDATE_MESSAGE, [row for s in sessions for row in sql.update_rows(s)])
        many(sql.ADD_COUNT, list(changes.counts.items()))
        many(
            sql.ADD_USAGE,
            [(u.day, owner, u.model, u.replies, u.prompt_tokens, u.completion_tokens) for owner, u in changes.usage],
        )
        told = [(s.session.no, *sql.usage_row(used)) for s in sessions for used in s.erased_usage]
        many(sql.ADD_ERASED_USAGE, told)
        if gone:
            self._connection.execute(sql.DROP_EMPTIED_USAGE)


def is_first(recorded: RecordedEvent) -> bool:
    return recorded.version == 1


def is_passing(error: sqlite3.Error) -> bool:
    """Whether the disk or another program stands in the way: to be tried again, with the file left as it is.

    Everything else (a page that makes no sense, a missing table, a broken rule) is the file's own fault.
    """
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return primary in PASSING


PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def delete(path: Path) -> None:
    """Delete projections.db and what SQLite keeps beside it; the lock file stays."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
