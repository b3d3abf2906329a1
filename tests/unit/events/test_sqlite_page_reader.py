"""Rows read from a file's pages are the rows that SQLite reads, whatever their size and kind."""

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from events.record import StoredRow
from events.storage.sqlite.sqlite_schema import COLUMNS, TABLE
from events.transfer.sqlite_page_reader import SqlitePageReader


def rows(seed: int, count: int) -> list[StoredRow]:
    """Lengths around those at which a record goes on over further pages, and numbers of every width."""
    chance = random.Random(seed)
    made = []
    for position in range(1, count + 1):
        length = chance.choice([0, 1, 40, 300, 3700, 3800, 3900, 4000, 4100, 8100, 8200, 70_000]) + chance.randrange(
            200
        )
        made.append(
            StoredRow(
                position=position,
                stream_id=chance.choice(["a", "끝" * 12, ""]),
                version=chance.choice([0, 1, 127, 128, -1, 2**15, 2**23, 2**31, 2**40, 2**47, 2**62]),
                type="message_posted",
                schema_version=chance.choice([0, 1, 2]),
                recorded_at_us=chance.choice([0, 1, 1_738_000_000_000_000]),
                metadata="{}",
                data="x" * length if position % 5 else None,
                salt=os.urandom(16) if position % 5 else None,
                commitment=os.urandom(32),
                digest=os.urandom(32),
            )
        )
    return made


def write(path: Path, made: list[StoredRow], page_bytes: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size = {page_bytes}")
        database.execute(TABLE.replace("UNIQUE (stream_id, version),", ""))
        values = [tuple(getattr(row, name) for name in row.__struct_fields__) for row in made]
        database.execute("BEGIN")
        database.executemany(f"INSERT INTO events ({COLUMNS}) VALUES ({','.join('?' * 11)})", values)
        database.execute("COMMIT")


@pytest.mark.parametrize("page_bytes", [512, 1024, 4096, 65_536])
def test_every_row_is_found_as_it_is(tmp_path: Path, page_bytes: int) -> None:
    made = rows(page_bytes, 300)
    write(tmp_path / "log.db", made, page_bytes)
    leaves = SqlitePageReader(tmp_path / "log.db")
    assert leaves.end == 300
    assert [leaves.row(row.position) for row in made] == made
    assert leaves.row(0) is None
    assert leaves.row(301) is None
    leaves.close()


def test_noise_makes_no_rows_that_are_not_there_and_stops_nothing(tmp_path: Path) -> None:
    """Bytes changed at random: each row is found as it was, or changed, or not; never a failure."""
    made = rows(1, 200)
    write(tmp_path / "log.db", made, 1024)
    whole = (tmp_path / "log.db").read_bytes()
    for seed in range(30):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(200):
            data[chance.randrange(100, len(data))] = chance.randrange(256)
        (tmp_path / "log.db").write_bytes(data)
        leaves = SqlitePageReader(tmp_path / "log.db")
        found = [leaves.row(row.position) for row in made]
        leaves.close()
        assert sum(row == one for row, one in zip(made, found, strict=True)) > 50
        assert all(one is None or one.position == row.position for row, one in zip(made, found, strict=True))
