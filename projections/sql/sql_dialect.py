"""Translates the queries that both stores run from SQLite's dialect to PostgreSQL's."""

import re
from functools import lru_cache

_TABLES = re.compile(r"\b(FROM|JOIN|INTO|UPDATE) (meta|sessions|counts|messages|labels|keys|usage|erased_usage)\b")
_INDEX_HINT = re.compile(r" (INDEXED BY \w+|NOT INDEXED)")
_NOT_IN_LIST = re.compile(r"(\S+) NOT IN \(SELECT value FROM json_each\(\?\)\)")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z]\w*)|\?")


@lru_cache(maxsize=512)  # the lists of sessions have a few dozen forms
def to_postgres(query: str, prefix: str) -> tuple[str, tuple[str, ...]]:
    """`query` for tables whose names begin with `prefix`, and the names of its numbered parameters; for a query with
    question marks none.

    PostgreSQL has no hints of indexes, and keeps no order of joins. A list of numbers that SQLite gets as JSON is an
    array.
    """
    query = _INDEX_HINT.sub("", query).replace("CROSS JOIN", "JOIN")
    query = _NOT_IN_LIST.sub(r"\1 <> ALL(?::bigint[])", query)
    query = _TABLES.sub(lambda found: f"{found[1]} {prefix}{found[2]}", query)
    names: list[str] = []
    count = 0

    def numbered(found: re.Match[str]) -> str:
        nonlocal count
        if found[1] is None:
            count += 1
            return f"${count}"
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return _PARAMETER.sub(numbered, query), tuple(names)
