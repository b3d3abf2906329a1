"""Only `events` reads and writes the tables of the log: elsewhere the port `EventLog` is asked."""

import ast
import re

from tests.layout.imports import ROOT, source_files

TABLES = (
    "events",
    "events_holders",
    "events_nodes",
    "events_redacted",
    "unfinished",
    "media",
    "media_chunks",
    "media_references",
)
STATEMENT = re.compile(
    rf"\b(?:FROM|INTO|UPDATE(?: ONLY)?|JOIN|TABLE|TRUNCATE|ON)\s+(?:[\w{{}}\"]+\.)?\"?({'|'.join(TABLES)})\b"
)
STATEMENT_WORD = re.compile(r"\b(?:FROM|INTO|UPDATE|JOIN|TABLE|TRUNCATE|ON)\b")
OUTSIDE = [path for path in source_files() if not path.is_relative_to(ROOT / "events")]


def statements_on_log_tables(source: str) -> list[str]:
    """SQL in strings, with its line. SQL is written in capitals here, prose is not."""
    if not STATEMENT_WORD.search(source):
        return []
    return [
        f"line {node.lineno}: {found[0]}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.expr)
        for found in STATEMENT.finditer(_text(node))
    ]


def _text(node: ast.expr) -> str:
    """Of a string; of an f-string with {} for each expression in it, whose own constants come again alone."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def test_no_sql_outside_of_events_names_a_table_of_the_log() -> None:
    found = {
        str(path.relative_to(ROOT)): lines for path in OUTSIDE if (lines := statements_on_log_tables(path.read_text()))
    }
    assert found == {}, "ask the port in events/log.py"


def test_a_statement_is_found_in_a_string_and_prose_is_not() -> None:
    source = 'x = "SELECT 1 FROM events WHERE a"\ny = f"DELETE FROM {s}.events_nodes"\nz = "copied from events"\n'
    assert statements_on_log_tables(source) == ["line 1: FROM events", "line 2: FROM {}.events_nodes"]
    assert statements_on_log_tables('"UPDATE log.events SET a"') == ["line 1: UPDATE log.events"]


def test_the_tables_are_those_of_the_schemas() -> None:
    schemas = "".join(path.read_text() for path in (ROOT / "events" / "storage").rglob("*_schema.py"))
    named = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(?:\{\w+\}\.)?(\w+)", schemas))
    assert named <= set(TABLES)
