"""Damage to a log's file, as disks, cables and careless hands do it. The log must be closed."""

import sqlite3
from contextlib import closing
from pathlib import Path

PAGE_BYTES = 4096


def leaf_pages(path: Path) -> list[int]:
    """Numbers of the pages that hold the rows of `events`, in file order."""
    data = path.read_bytes()
    pages = [(n, data[(n - 1) * PAGE_BYTES :][:5]) for n in range(2, len(data) // PAGE_BYTES + 1)]
    return [
        n for n, header in pages if header[0] == 0x0D and header[3:] != b"\0\0"
    ]  # without the empty tables of files


def page_of(path: Path, text: bytes) -> int:
    """The number of the first page that holds `text`."""
    return path.read_bytes().index(text) // PAGE_BYTES + 1


def inner_pages(path: Path) -> list[int]:
    """Numbers of the pages that lead to the rows."""
    data = path.read_bytes()
    return [n for n in range(2, len(data) // PAGE_BYTES + 1) if data[(n - 1) * PAGE_BYTES] == 0x05]


def overwrite_page(path: Path, page: int) -> None:
    """The page was never written: what the disk gives back is noise."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)


def truncate(path: Path, share: float) -> None:
    """Keep `share` of the file's pages."""
    pages = path.stat().st_size // PAGE_BYTES
    with path.open("r+b") as file:
        file.truncate(max(1, int(pages * share)) * PAGE_BYTES)


def flip_bit(path: Path, text: bytes, bit: int = 0) -> None:
    """Flip one bit of the first byte of `text` where it first stands in the file."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1 << bit
    path.write_bytes(data)


def alter_row(path: Path, assignment: str, position: int) -> None:
    """Change a column past the triggers, as anybody with write access to the file can."""
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        (trigger,) = log.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_refuse_update'").fetchone()
        log.execute("DROP TRIGGER events_refuse_update")
        log.execute("PRAGMA ignore_check_constraints = ON")
        log.execute(f"UPDATE events SET {assignment} WHERE position = {position}")
        log.execute(trigger)


def delete(path: Path, condition: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        (trigger,) = log.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_refuse_delete'").fetchone()
        log.execute("DROP TRIGGER events_refuse_delete")
        log.execute(f"DELETE FROM events WHERE {condition}")
        log.execute(trigger)


def cut_off(path: Path, events: int) -> None:
    """Keep the first events only, as anybody with write access to the file can: the chain stays intact."""
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        triggers = log.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            log.execute(f"DROP TRIGGER {name}")
        log.execute("DELETE FROM events WHERE position > ?", (events,))
        for _, sql in triggers:
            log.execute(sql)
