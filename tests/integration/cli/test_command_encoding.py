"""Commands find what people wrote whatever the locale says, or refuse; never with an exit code that means something."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.command_line import Command, parse
from chatbot.cli.command_runner import run_command
from chatbot.cli.erasure.erasure_check import _split_lines
from chatbot.config.settings import Settings
from events.catalogue import SessionCreated
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.service import ROOT, environment

NAME = "\ubbfc\uc544"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # without the last two Python takes UTF-8 for C
LATIN_1 = {"PYTHONIOENCODING": "latin-1"}


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    await log.append("a", 0, [SessionCreated(None, {"name": NAME}, 3600)], Metadata())
    await log.close()
    return tmp_path


def ask(folder: Path, settings: dict[str, str], *arguments: str | bytes, typed: bytes = b"") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment(folder, "http://127.0.0.1:9"), **settings},
        input=typed,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_name_given_as_an_argument_is_found(folder: Path) -> None:
    code, said, noted = ask(folder, ASCII, "erase", "--metadata", f"name={NAME}", "--dry-run")
    assert (code, json.loads(said)["session_id"]) == (0, "a"), noted


@pytest.mark.parametrize("settings", [ASCII, LATIN_1], ids=["ascii locale", "latin-1 streams"])
def test_a_name_typed_to_standard_input_is_found(folder: Path, settings: dict[str, str]) -> None:
    code, said, noted = ask(folder, settings, "erased", "--check", "-", typed=NAME.encode() + b"\n")
    assert code == 1, noted
    assert all(json.loads(line)["check"] == 1 for line in said.splitlines())


def test_what_is_not_utf_8_is_refused_and_not_taken_for_absent(folder: Path) -> None:
    code, _, noted = ask(folder, ASCII, "erased", "--check", "Zo\u00eb".encode("latin-1"))
    assert (code, "arguments are read as UTF-8" in noted) == (2, True)
    code, _, noted = ask(folder, {}, "erased", "--check", "-", typed="Zo\u00eb".encode("latin-1"))
    assert (code, "not UTF-8" in noted) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["erase", "--metadata", "name=1", "name=\udceb"],
        ["erase", "--owner", "\udceb"],
        ["export", "--session", "\udceb"],
        ["--host", "\udceb"],
    ],
)
def test_each_textual_argument_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments, "1")
    assert refused.value.code == 2
    assert "udceb'" in capsys.readouterr().err


def test_a_file_may_have_any_name() -> None:
    name = os.fsdecode(b"\xeb.db")
    assert parse(["backup", name], "1").destination == Path(name)


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("?"), 70), (PermissionError("no"), 3), (KeyError("?"), 70)])
def test_an_error_has_no_exit_code_that_means_found(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr("chatbot.cli.cli_context._lower_priority", lambda: None)  # the tests go on in this process
    failing = Command(lambda _: None, fail)
    assert run_command(failing, parse(["keygen", "key"], "1"), Settings()) == code
    assert "error: " in capsys.readouterr().err


def test_texts_are_cut_at_line_feeds_only() -> None:
    assert _split_lines("one\u2028two\x85three\nfour\r\n") == ["one\u2028two\x85three", "four"]
    assert _split_lines("") == []
