"""What statements bind: bytes and None, for which Python's sqlite3 module would look for an adapter each time."""

import sqlite3
from contextlib import closing

from events.storage.sqlite.value_adapters import register_adapters


def test_bytes_and_none_are_bound_as_they_are() -> None:
    register_adapters()
    values = (b"", b"\x00\xff" * 16, None)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE kept (value)")
        connection.executemany("INSERT INTO kept VALUES (?)", [(value,) for value in values])
        found = connection.execute("SELECT value, typeof(value) FROM kept ORDER BY rowid").fetchall()
    assert found == list(zip(values, ("blob", "blob", "null"), strict=True))


def test_each_has_an_adapter_so_that_none_is_looked_for() -> None:
    register_adapters()
    assert {(kind, sqlite3.PrepareProtocol) for kind in (bytes, type(None))} <= sqlite3.adapters.keys()
