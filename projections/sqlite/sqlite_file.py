"""The file projections.db: opened, created, examined and deleted. Everything here blocks."""

import mmap
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from events.storage.private_file import create_private
from projections.checkpoint import Checkpoint
from projections.errors import InvalidProjection, ProjectionsUnusable, is_corrupt_or_inconsistent
from projections.folds.blind_index import LABEL_KEY_BYTES
from projections.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES

BUSY_MS = 5_000
_PRAGMAS = {
    "busy_timeout": BUSY_MS,  # that another program (a backup, a shell) may hold the file before an apply fails
    "wal_autocheckpoint": 4_000,  # pages, 16 MiB: a page that changes often is copied to the main file once
    "journal_size_limit": 64 * 2**20,
    "secure_delete": "ON",
    "temp_store": "MEMORY",
    # Syncs when the write-ahead log is copied into the file, not at commits. OFF is no faster to measure, and a power
    # cut could then leave a file that is wrong and does not show it.
    "synchronous": "NORMAL",
}
# Of a draft, which nobody else opens and a crash leaves to be deleted: written once, and by the system's leave. Its
# transactions cannot be rolled back; whoever meets a failure deletes it.
_DRAFT_PRAGMAS = {**_PRAGMAS, "synchronous": "OFF"}
_DRAFT_JOURNAL, _JOURNAL = "OFF", "WAL"
_CACHE_KIB = 8 * 1024  # of b-tree pages: with four times as much a rebuild was no faster, and the memory stays
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 72  # up to and with the application id
_CHECKED_BYTES_MAX = 64 * 2**20  # read as a whole at start up to here, a third of a second; beyond, damage shows in use


def connect(path: Path) -> sqlite3.Connection:
    """The connection that writes; transactions are the caller's. Raises OSError, sqlite3.OperationalError."""
    create_private(path)
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def prepare_file(connection: sqlite3.Connection, path: Path, *, is_draft: bool = False) -> tuple[Checkpoint, bytes]:
    """The checkpoint and the label key of the file, which is created if it is empty.

    A draft survives no power cut until all of it was flushed.

    Raises Unfit for a file that must be deleted first, ProjectionsUnusable for another program's,
    sqlite3.OperationalError when the disk or the folder refuses.
    """
    try:
        empty = _is_empty(connection, path)
        for name, value in (_DRAFT_PRAGMAS if is_draft else _PRAGMAS).items():
            connection.execute(f"PRAGMA {name} = {value}")
        if empty:
            _create(connection)
        connection.execute(f"PRAGMA journal_mode = {_DRAFT_JOURNAL if is_draft else _JOURNAL}")
        return _examine(connection, path)
    except sqlite3.DatabaseError as error:
        if is_corrupt_or_inconsistent(error):
            raise InvalidProjection(f"it is damaged ({error})") from error
        raise


def _is_empty(connection: sqlite3.Connection, path: Path) -> bool:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application_id, tables) == (0, 0):
        return True
    if application_id != APPLICATION_ID:
        raise ProjectionsUnusable(f"{path} is another program's database: choose another projections path")
    return False


def _create(connection: sqlite3.Connection) -> None:
    """All or nothing: a process killed in here leaves an empty file."""
    connection.executescript(f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; {TABLES}")
    key = secrets.token_bytes(LABEL_KEY_BYTES)
    connection.execute("INSERT INTO meta VALUES (1, ?, ?, 0, ?, ?, 0)", (SCHEMA_VERSION, b"", b"", key))
    connection.execute("COMMIT")


def _examine(connection: sqlite3.Connection, path: Path) -> tuple[Checkpoint, bytes]:
    found = connection.execute("SELECT schema_version FROM meta").fetchone()
    if found != (SCHEMA_VERSION,):
        raise InvalidProjection(f"its tables have version {found and found[0]}, this program's {SCHEMA_VERSION}")
    if path.stat().st_size <= _CHECKED_BYTES_MAX:
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise InvalidProjection(f"it is damaged ({answer})")
    connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")  # only now: the check would have filled it
    row = connection.execute("SELECT position, digest, log_identity, label_key FROM meta").fetchone()
    return Checkpoint(*row[:3]), row[3]


def is_disposable(path: Path) -> bool:
    """Whether nothing is lost when `path` is deleted: nothing is there, an empty file, or projections."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return True
    return not header or (header.startswith(_MAGIC) and header.endswith(APPLICATION_ID.to_bytes(4, "big")))


def checkpoint_of(path: Path) -> Checkpoint | None:
    """How far the file at `path` is, whoever has it open; None for one that is not there or does not tell."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return Checkpoint(*connection.execute("SELECT position, digest, log_identity FROM meta").fetchone())
    except (sqlite3.Error, TypeError):
        return None


def flush(path: Path, start: int, size: int) -> None:
    """Have so many bytes of a file reach the disk, and all that says where they are. Raises OSError."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size, offset=start) as content:
        content.flush()


def delete(path: Path) -> None:
    """Delete projections.db and what SQLite keeps beside it; the lock file stays."""
    for file in files(path):
        file.unlink(missing_ok=True)


def files(path: Path) -> list[Path]:
    """The file at `path` and what SQLite keeps beside it, there or not."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
