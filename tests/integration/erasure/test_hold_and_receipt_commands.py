"""The commands hold and receipt, and what erase does with holds, reasons and signatures: on files, PostgreSQL, and
through a running service.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.config.loader import load
from events.catalogue import SessionCreated
from events.factory import open_log
from events.record import Metadata
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, environment, started

S1, S2, NONE = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 9))
PLACES = ["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)]


class Commands:
    """Runs commands on one log, in this process."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        settings = environment(folder, "http://127.0.0.1:9", DATABASE_URL=database)
        self.settings = load({}, environment=settings, folder=ROOT).settings
        self.notes = ""

    async def run(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code, and the lines of JSON."""
        console = FakeConsole(self.settings)
        code = await run_in_process(console, *arguments)
        self.notes = "\n".join(console.stderr_lines)
        return code, [json.loads(line) if line.startswith("{") else {"text": line} for line in console.stdout_lines]


@pytest.fixture(params=PLACES)
async def commands(request: pytest.FixtureRequest, tmp_path: Path) -> Commands:
    database = str(tmp_path / "chatbot.db")
    if request.param == "postgres":
        database = await request.getfixturevalue("postgres").schema()
    made = Commands(tmp_path, database)
    log = await open_log(made.settings.database.place)
    for session_id in (S1, S2):
        await log.append(session_id, 0, [SessionCreated("mina", {"user_id": "42"}, 3600)], Metadata())
    await log.close()
    return made


async def test_erase_passes_over_held_sessions_names_them_and_ends_with_1(commands: Commands) -> None:
    code, (held,) = await commands.run("hold", "add", "--session", S1, "--reason", "litigation", "--ticket", "LEGAL-1")
    assert (code, held["session_id"], held["ticket"]) == (0, S1, "LEGAL-1")
    erase = ("erase", "--metadata", "user_id=42", "--reason-code", "gdpr-17", "--ticket", "DSR-7")
    code, preview = await commands.run(*erase, "--dry-run")
    shown = {one["session_id"]: (one.get("status"), one.get("held"), one.get("hold_id")) for one in preview}
    assert (code, shown) == (1, {S1: (None, "litigation", held["hold_id"]), S2: ("active", None, None)})
    assert "1 session with 0 messages would be erased; 1 under a legal hold would not" in commands.notes
    assert (await commands.run("erase", "--session", S1, "--dry-run"))[0] == 1
    assert "nothing matched" not in commands.notes
    code, receipts = await commands.run(*erase)
    assert code == 1
    assert [(one["session_id"], one["reason"], one["reason_code"], one["ticket"]) for one in receipts] == [
        (S2, "erasure: metadata", "gdpr-17", "DSR-7")
    ]
    assert f"session {S1} is under a legal hold and was not erased: litigation" in commands.notes
    assert "LEGAL-1" not in commands.notes
    code, listed = await commands.run("hold", "list")
    assert (code, [one["hold_id"] for one in listed]) == (0, [held["hold_id"]])
    code, _ = await commands.run("hold", "release", held["hold_id"], "--reason", "settled")
    assert code == 0
    with pytest.raises(CommandFailed, match="no hold"):
        await commands.run("hold", "release", held["hold_id"], "--reason", "settled")
    code, receipts = await commands.run(*erase)
    assert (code, [one["session_id"] for one in receipts]) == (0, [S1])
    assert (await commands.run("hold", "forget"))[1][0]["holds"] == 1
    assert (await commands.run("hold", "list"))[1] == []
    code, (late,) = await commands.run("hold", "add", "--session", S1, "--reason", "too late")
    assert (code, late["reason"]) == (1, "too late")
    assert "its content is gone" in commands.notes
    with pytest.raises(CommandFailed, match="there is no session"):
        await commands.run("hold", "add", "--session", NONE, "--reason", "x")


async def test_signed_receipts_are_checked_against_the_key_and_the_log(commands: Commands) -> None:
    key, file = commands.folder / "receipts.key", commands.folder / "receipts.ndjson"
    await commands.run("keygen", str(key))
    code, receipts = await commands.run("erase", "--session", S1, S2, "--ticket", "DSR-7", "--sign-with", str(key))
    assert code == 0
    again = (await commands.run("receipt", "--session", S1, S2, "--sign-with", str(key)))[1]
    assert sorted(map(str, again)) == sorted(map(str, receipts))

    async def check(*lines: dict[str, Any], options: tuple[str, ...] = ("--key", f"{key}.pub")) -> tuple[int, str]:
        file.write_text("\n".join(map(json.dumps, lines)))
        code, printed = await commands.run("receipt", "--check", str(file), *options)
        return code, "\n".join(one["text"] for one in printed)

    assert await check(*receipts) == (0, "2 of 2 receipts are right")
    for change in ({"ticket": "another"}, {"events_erased": 9}, {"signature": receipts[1]["signature"]}):
        code, text = await check({**receipts[0], **change}, receipts[1])
        assert (code, "does not fit" in text, "1 of 2 receipts are right" in text) == (1, True, True)
    unsigned = {name: value for name, value in receipts[0].items() if name != "signature"}
    for options in (("--key", f"{key}.pub"), ("--key", f"{key}.pub", "--signature-only")):
        code, text = await check(unsigned, receipts[1], options=options)
        assert (code, text.splitlines()) == (
            1,
            [f"NOT SIGNED: receipt of session {unsigned['session_id']}", "1 of 2 receipts are right, 1 not signed"],
        )
        assert "anchors.key_file" in commands.notes
    assert "WRONG" in (await check({**unsigned, "position": receipts[1]["position"]}))[1]
    assert await check(unsigned, options=()) == (0, "1 of 1 receipts are right")
    moved = {**unsigned, "position": receipts[1]["position"]}
    assert "is another one" in (await check(moved, options=()))[1]
    assert "has no event" in (await check({**unsigned, "position": 99}, options=()))[1]
    for change in ({"ticket": "another"}, {"events_erased": 9}, {"reason_code": "other"}, {"at": "2026-01-01"}):
        assert f"otherwise: {next(iter(change))}" in (await check({**unsigned, **change}, options=()))[1]
    log = await open_log(commands.settings.database.place)
    (created,) = await log.append(NONE, 0, [SessionCreated("mina", {"user_id": "43"}, 3600)], Metadata())
    (row,) = await log.rows(after=created.position - 1, limit=1)
    await log.close()
    forged = {**unsigned, "session_id": NONE, "position": row.position, "digest": row.digest.hex(), "events_erased": 0}
    assert "explains no such erasure" in (await check(forged, options=()))[1]
    assert (await check(*receipts, options=("--key", f"{key}.pub", "--signature-only")))[0] == 0
    assert (await commands.run("receipt", "--session", NONE))[0] == 1  # it is not erased
    code, (forgotten,) = await commands.run("receipt", "--session", S1, "--forget-ticket")
    (first,) = (one for one in receipts if one["session_id"] == S1)
    assert (code, forgotten["ticket"], forgotten["position"]) == (0, None, first["position"])
    assert (await check(*receipts))[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("erase", "--session", S1, "--reason-code", "No code"),
        ("erase", "--session", S1, "--ticket", "x" * 201),
        ("erase", "--session", S1, "--url", "http://127.0.0.1:9", "--sign-with", "none.key"),
        ("hold", "add", "--owner", "mina", "--reason", " "),
        ("hold", "list", "--key", "x"),
        ("receipt", "--session", S1, "--signature-only"),
        ("receipt", "--check", "none", "--signature-only"),
    ],
)
async def test_options_that_make_no_sense_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        await Commands(tmp_path, str(tmp_path / "chatbot.db")).run(*arguments)


async def test_hold_and_erase_work_through_a_running_service(tmp_path: Path, model: ModelServer) -> None:
    async with started(tmp_path, model.url) as service:
        commands = Commands(tmp_path, str(tmp_path / "chatbot.db"))
        url = ("--url", service.url.rstrip("/"))
        mine = [await service.session(metadata={"user_id": "42"}) for _ in range(3)]
        with pytest.raises(CommandFailed, match="--url"):
            await commands.run("hold", "add", "--owner", "mina", "--reason", "litigation")
        _, (held,) = await commands.run("hold", "add", "--session", mine[0], "--reason", "litigation", *url)
        assert (held["session_status"], held["reason"]) == ("active", "litigation")
        erase = ("erase", "--metadata", "user_id=42", "--reason-code", "gdpr-17", *url)
        code, found = await commands.run(*erase, "--dry-run")
        assert (code, len(found), [one for one in found if "held" in one]) == (
            1,
            3,
            [{"session_id": mine[0], "held": "litigation", "hold_id": held["hold_id"]}],
        )
        assert "2 sessions with 0 messages would be erased; 1 under a legal hold would not" in commands.notes
        code, receipts = await commands.run(*erase)
        assert (code, sorted(one["session_id"] for one in receipts)) == (1, sorted(mine[1:]))
        assert all(one["reason_code"] == "gdpr-17" and one["digest"] for one in receipts)
        assert "under a legal hold: 1" in commands.notes
        assert [one["hold_id"] for one in (await commands.run("hold", "list", *url))[1]] == [held["hold_id"]]
        await commands.run("hold", "release", quote(held["hold_id"]), "--reason", "settled", *url)
        code, receipts = await commands.run(*erase)
        assert (code, [one["session_id"] for one in receipts]) == (0, [mine[0]])
        assert (await commands.run("hold", "forget", *url))[1][0]["holds"] == 1
        code, _ = await commands.run("hold", "add", "--session", mine[0], "--reason", "late", *url)
        assert code == 1
