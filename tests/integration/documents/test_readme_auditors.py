"""The README's section for auditors: its stand-alone script needs nothing of ours, and finds what `verify` finds."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from events.catalogue import Event
from events.codec import event_type
from events.storage.append_batch import AppendContext, prepare
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import TRIGGERS
from tests.support.command_processes import run_command_blocking
from tests.support.documents import marked
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVENTS_WITH_PARTS, EVERY_EVENT, deleted, posted


def script() -> str:
    return marked("auditors: stand-alone verification")


def check(database: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run it away from our code; -I hides whatever is installed in the current folder."""
    command = [sys.executable, "-I", "-S", "-c", script(), str(database), *more]
    return subprocess.run(command, cwd=database.parent, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    log = await SqliteLog.open(tmp_path / "copy.db")
    await log.append("gone", 0, [posted("one"), posted("둘")], ASKED)
    await log.erase("gone", 2, deleted(), ASKED)
    await put_sample_files(log)
    await log.append("every", 0, EVERY_EVENT, ASKED)
    await log.append("last", 0, [posted("1"), posted("2")], ASKED)
    await log.close()
    return tmp_path / "copy.db"


def test_it_imports_the_standard_library_alone() -> None:
    imported = {name for line in re.findall(r"^(?:import|from) (.*)$", script(), re.M) for name in line.split(", ")}
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize("event", EVENTS_WITH_PARTS, ids=event_type)
def test_it_computes_the_commitments_of_all_events(event: Event) -> None:
    contents = prepare([event], AppendContext("s", 0, ASKED, 0), os.urandom).contents[0]
    committed = functions()["commitment_of"]
    assert committed(contents.type, contents.data, contents.salt) == contents.commitment
    for at in range(0, len(contents.data), 3):
        changed = contents.data[:at] + chr(ord(contents.data[at]) ^ 1) + contents.data[at + 1 :]
        with suppress(IndexError, KeyError, TypeError, ValueError):
            assert committed(contents.type, changed, contents.salt) != contents.commitment


def functions() -> dict[str, Any]:
    """What the script defines before it reads anything."""
    names: dict[str, Any] = {}
    exec(script().partition("\nif len(sys.argv)")[0], names)
    return names


def test_it_agrees_with_verify_on_a_log_of_every_kind_of_event(database: Path) -> None:
    done = check(database)
    assert done.returncode == 0, done.stderr
    position, digest = done.stdout.split()
    said = run_command_blocking(database.parent, "verify", DATABASE_URL=str(database)).stdout
    assert f"{position} events" in said
    assert digest in said


PARTS_CHANGED = (
    'data = replace(data, \'"content":"Let\', \'"content":"Lex\')',
    'data = replace(data, \'"text":"H\', \'"text":"I\')',
    "data = replace(data, '},{', '} ,{')",
    "data = substr(data, 2)",
    "data = substr(data, 1, length(data) - 40)",
    "salt = CAST(substr(salt, 17) || substr(salt, 1, 16) AS BLOB)",
    "salt = substr(salt, 1, length(salt) - 16)",
    "salt = substr(salt, 1, 16)",
)


@pytest.mark.parametrize(
    "statement",
    [
        *(
            f"UPDATE events SET {change} WHERE position = 5"
            for change in (
                "stream_id = 'x'",
                "version = 99",
                "type = 'x'",
                "schema_version = 9",
                "recorded_at = 9",
                "metadata = '{}'",
                "data = data || ' '",
                "salt = zeroblob(16)",
                "commitment = zeroblob(32)",
                "digest = zeroblob(32)",
                "salt = CAST(CAST(salt AS TEXT) || substr(data, 1, 1) AS BLOB), data = substr(data, 2)",
            )
        ),
        *(f"UPDATE events SET {change} WHERE data LIKE '%\"parts\":%'" for change in PARTS_CHANGED),
        "DELETE FROM events WHERE position = 5",
        "UPDATE events SET data = NULL, salt = NULL WHERE stream_id = 'last'",
        "UPDATE events SET position = -1 WHERE position = 5",
    ],
)
def test_it_finds_what_verify_finds(database: Path, tmp_path: Path, statement: str) -> None:
    forged = Path(shutil.copy(database, tmp_path / "forged.db"))
    with closing(sqlite3.connect(forged, isolation_level=None)) as connection:
        for name in TRIGGERS:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
    done = check(forged)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert run_command_blocking(tmp_path, "verify", DATABASE_URL=str(forged)).returncode == 1
