"""The file projections.db: opened, created, examined and deleted. Everything here blocks."""

import mmap
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from events.storage.private_file import create_private
from events.storage.sqlite.value_adapters import register_adapters
from projections.errors import InvalidProjection, ProjectionsUnusable
from projections.folds.blind_index import LABEL_KEY_BYTES
from projections.port import Checkpoint
from projections.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from projections.sqlite.sqlite_errors import is_corrupt_or_inconsistent

BUSY_MS = 5_000
_PRAGMAS = {
    "busy_timeout": BUSY_MS,  # how long another program (a backup, a shell) may lock the file before an apply fails
    "wal_autocheckpoint": 4_000,  # pages, 16 MiB: a page that changes often is copied to the main file once
    "journal_size_limit": 64 * 2**20,
    "secure_delete": "ON",
    "temp_store": "MEMORY",
    # Syncs when the write-ahead log is copied into the file, not at commits. OFF is not measurably faster, and a power
    # failure could then leave a file that is corrupt without being detected.
    "synchronous": "NORMAL",
}
# Temporary files need no durability, no other process opens them, and they are deleted after a crash or an error: no
# journal (so no rollback) and no sync.
_TEMPORARY_PRAGMAS = {**_PRAGMAS, "synchronous": "OFF"}
_TEMPORARY_JOURNAL, _JOURNAL = "OFF", "WAL"
_CACHE_KIB = (
    8 * 1024
)  # of B-tree pages: a rebuild was no faster with four times as much, and the memory is not returned
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 72  # up to and with the application id
_CHECKED_BYTES_MAX = 64 * 2**20  # larger files are not checked at start (a third of a second): damage shows in use


def connect(path: Path) -> sqlite3.Connection:
    """The connection that writes; transactions are the caller's. Raises OSError, sqlite3.OperationalError."""
    create_private(path)
    register_adapters()
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def prepare_file(connection: sqlite3.Connection, path: Path, *, is_temporary: bool = False) -> tuple[Checkpoint, bytes]:
    """The checkpoint and the label key of the file, which is created if it is empty.

    A temporary file does not survive a power failure before it was flushed.

    Raises InvalidProjection for a file that must be deleted first, ProjectionsUnusable for another program's,
    sqlite3.OperationalError for an error of the disk or the folder.
    """
    try:
        empty = _is_empty(connection, path)
        for name, value in (_TEMPORARY_PRAGMAS if is_temporary else _PRAGMAS).items():
            connection.execute(f"PRAGMA {name} = {value}")
        if empty:
            _create(connection)
        connection.execute(f"PRAGMA journal_mode = {_TEMPORARY_JOURNAL if is_temporary else _JOURNAL}")
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
    """In one transaction: a process that is killed meanwhile leaves an empty file."""
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
    connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")  # after the check, which would fill the cache
    row = connection.execute("SELECT position, digest, log_identity, label_key FROM meta").fetchone()
    return Checkpoint(*row[:3]), row[3]


def is_disposable(path: Path) -> bool:
    """Whether `path` may be deleted: there is no file, an empty file, or projections."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return True
    return not header or (header.startswith(_MAGIC) and header.endswith(APPLICATION_ID.to_bytes(4, "big")))


def checkpoint_of(path: Path) -> Checkpoint | None:
    """The checkpoint of the file at `path`, which another process may have open; None if it cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return Checkpoint(*connection.execute("SELECT position, digest, log_identity FROM meta").fetchone())
    except (sqlite3.Error, TypeError):
        return None


def flush(path: Path, start: int, size: int) -> None:
    """Sync `size` bytes of a file to disk, with their metadata. Raises OSError."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size, offset=start) as content:
        content.flush()


def delete(path: Path) -> None:
    """Delete projections.db and SQLite's companion files; the lock file stays."""
    for file in files(path):
        file.unlink(missing_ok=True)


def files(path: Path) -> list[Path]:
    """The file at `path` and SQLite's companion files, whether they exist or not."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
