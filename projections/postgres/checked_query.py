"""Queries of the tables in PostgreSQL that also say how far these are folded, and whether they are the set meant.

A node knows a position from its own session. The tables that a query reads may be behind it: they were emptied to be
folded again, or the query went to another server after a failover. That is part of the answer, as only the statement
itself can say it for sure.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from projections.sql.sql_dialect import to_postgres


class TablesBehind(Exception):
    """The tables are folded up to `position` only."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class TablesReplaced(Exception):
    """It is another set of tables: hashes have another key. Or a set without a checkpoint."""


@lru_cache(maxsize=512)  # as to_postgres
def checked_query(query: str, prefix: str, *, is_keyed: bool = False) -> tuple[str, tuple[str, ...]]:
    """As to_postgres, for rows of the position, true and the row; or one row of the position and None if there is no
    row. `is_keyed`: one more parameter is the key of hashes; no rows for a set with another.
    """
    text, names = to_postgres(query, prefix)
    count = len(names) or query.count("?")
    key = f" AND m.label_key = ${count + 1}" if is_keyed else ""
    checked = (
        f"SELECT m.position, r.* FROM {prefix}meta AS m"  # noqa: S608  constants
        f" LEFT JOIN (SELECT true, q.* FROM ({text}\n) AS q) AS r ON true WHERE m.one = 1{key}"
    )
    return checked, names


def checked_rows(rows: Sequence[Any], known: int) -> list[Any]:
    """The rows of the query itself. Raises TablesBehind if they show less than the position `known`, TablesReplaced."""
    if not rows:
        raise TablesReplaced
    if rows[0][0] < known:
        raise TablesBehind(rows[0][0])
    return [] if rows[0][1] is None else [row[2:] for row in rows]
