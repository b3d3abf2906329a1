"""The command find: sessions and events by what they have, on both stores."""

import json
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.config.loader import load
from events.catalogue import MessageRedacted, MetadataChanged, SessionDeleted
from events.factory import open_log
from events.record import Metadata
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.event_builders import created, posted
from tests.support.service import ROOT, environment

A, B, C = (f"00000000-0000-4000-8000-00000000000{n}" for n in "abc")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
async def console(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FakeConsole:
    """Of a log with three sessions: A was of user 42, B is of user 42, C was erased."""
    folder = tmp_path_factory.mktemp("find")
    settings = environment(folder, "http://127.0.0.1:9")
    if request.param == "postgres":
        settings["DATABASE_URL"] = await request.getfixturevalue("postgres").schema()
    configuration = load({}, environment=settings, folder=ROOT).settings
    log = await open_log(configuration.database.place)
    await log.append(A, 0, [created("mina", user_id="42"), posted("m1")], Metadata(actor="mina", request_id="r1"))
    await log.append(B, 0, [created("jun", user_id="42"), posted("m1")], Metadata(actor="jun", request_id="r2"))
    await log.append(A, 2, [MetadataChanged({"user_id": "\x1b[31m43"})], Metadata(actor="eve", request_id="r3"))
    await log.append(C, 0, [created("mina", user_id="42")], Metadata(actor="mina"))
    await log.erase(C, 1, SessionDeleted("requested", owner="mina"), Metadata(cause="erasure"))
    await log.close()
    return FakeConsole(configuration)


async def found(console: FakeConsole, *arguments: str) -> list[str]:
    console.stdout_lines.clear()
    console.stderr_lines.clear()
    code = await run_in_process(console, "find", *arguments, "--json")
    assert code == (0 if console.stdout_lines else 1)
    return [json.loads(line)["session_id"] for line in console.stdout_lines]


async def test_sessions_are_found_by_every_filter(console: FakeConsole) -> None:
    assert await found(console) == [A, B, C]
    assert await found(console, "--owner", "mina") == [A, C]
    assert await found(console, "--metadata", "user_id=42") == [B]
    assert await found(console, "--metadata", "user_id=42", "--ever") == [A, B]
    assert await found(console, "--key", "eve") == [A]
    assert await found(console, "--request-id", "r2") == [B]
    assert await found(console, "--type", "session_deleted", "message_posted") == [A, B, C]
    assert await found(console, "--session", A.upper(), C, "--owner", "mina", "--type", "session_deleted") == [C]
    assert await found(console, "--until", "2020-01-01") == []
    assert console.stderr_lines == ["nothing was found"]
    assert await found(console, "--metadata", "user_id=41") == []
    assert "--ever" in console.stderr_lines[0]


async def test_events_are_printed_as_lines_of_json_or_for_people(console: FakeConsole) -> None:
    assert await run_in_process(console, "find", "--events", "--key", "mina", "--json") == 0
    events = [json.loads(line) for line in console.stdout_lines]
    assert [(one["position"], one["type"]) for one in events] == [
        (1, "session_created"), (2, "message_posted"), (6, "session_created"),
    ]  # fmt: skip
    assert (events[1]["data"]["content"], events[2]["data"]) == ("words of m1", None)
    console.stdout_lines.clear()
    assert await run_in_process(console, "find", "--events", "--session", C) == 0
    assert [line.split()[3:] for line in console.stdout_lines] == [
        ["1", "session_created", "(erased)", "key", "mina"],
        ["2", "session_deleted", "cause", "erasure", "reason", "requested"],
    ]
    log = await open_log(console.settings.database.place)
    await log.append(B, 2, [MessageRedacted("m1", "third-party", part=1, ticket="DSR\x1b 7")], Metadata(actor="jun"))
    await log.erase(A, 3, SessionDeleted("request", reason_code="gdpr-art-17", ticket="DSR-8"), Metadata())
    await log.close()
    console.stdout_lines.clear()
    assert await run_in_process(console, "find", "--events", "--type", "session_deleted", "message_redacted") == 0
    assert [line.split(maxsplit=5)[5:] for line in console.stdout_lines] == [
        ["cause erasure reason requested"],
        ["key jun message m1 part 1 reason third-party ticket DSR\\x1b 7"],
        ["reason gdpr-art-17 ticket DSR-8"],
    ]
    console.stdout_lines.clear()
    assert await run_in_process(console, "find", "--owner", "jun") == 0
    assert "3 events, version 1 to 3" in console.stdout_lines[0]


async def test_a_limit_says_that_there_is_more_and_where_to_go_on(console: FakeConsole) -> None:
    assert await found(console, "--events", "--limit", "2") == [A, A]
    assert console.stderr_lines == ["there may be more: continue with --after 2"]
    assert await found(console, "--events", "--after", "2") == [B, B, A, C, C]
    assert await found(console, "--limit", "1") == [A]
    assert console.stderr_lines == ["4 more events match, of sessions that are not shown: raise --limit"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--since", "yesterday"], "--since: must be a time with its zone"),
        (["--type", "messages"], "'messages' is no event type"),
        (["--ever"], "--ever goes with --metadata"),
        (["--metadata", "42"], "metadata is NAME=VALUE"),
        (["--metadata", "a=1", "a=2"], "no session has two values of one name"),
        (["--limit", "0"], "--limit is 1 to"),
        (["--owner", ""], "--owner needs"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(
    arguments: list[str], reason: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("refused")
    console = FakeConsole(load({}, environment=environment(folder, "http://127.0.0.1:9"), folder=ROOT).settings)
    with pytest.raises(UsageError, match=reason):
        await run_in_process(console, "find", *arguments)


async def test_an_export_has_the_sessions_or_only_the_events_that_match(console: FakeConsole, tmp_path: Path) -> None:
    async def exported(*arguments: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
        out = tmp_path / "part.ndjson"
        out.unlink(missing_ok=True)
        assert await run_in_process(console, "export", *arguments, "--output", str(out)) == 0
        header, *lines, _ = [json.loads(line) for line in out.read_text().splitlines()]
        return header, [(line["stream_id"], line["version"]) for line in lines]

    header, events = await exported("--key", "mina", "--type", "message_posted", "session_created")
    assert events == [(A, 1), (A, 2), (C, 1)]
    assert header["events"] == {"types": ["message_posted", "session_created"], "actor": "mina"} | header["events"]
    if console.settings.database.is_postgres:
        return
    with pytest.raises(CommandFailed, match="cannot be imported"):
        await run_in_process(console, "import", str(tmp_path / "part.ndjson"))
    header, events = await exported("--metadata", "user_id=42", "--ever")
    assert events == [(A, 1), (A, 2), (B, 1), (B, 2), (A, 3)]
    assert header["sessions"]["metadata"] == {"user_id": "42"}
    assert (await exported("--owner", "mina", "--request-id", "r1"))[1] == [(A, 1), (A, 2)]
