"""The command redact, on files, on PostgreSQL and through a running service."""

import json
from pathlib import Path

import pytest

from chatbot.cli.exit_codes import CommandFailed, UsageError
from events.catalogue import (
    AdoptedMessage,
    HistoryAdopted,
    MessagePosted,
    Origin,
    ReplyCompleted,
    ReplyStarted,
    SessionCreated,
)
from events.factory import open_log
from events.record import Metadata
from events.schema.parameters import Parameters
from events.schema.parts import Reasoning, Text
from tests.integration.erasure.test_hold_and_receipt_commands import NONE, PLACES, S1, S2, Commands
from tests.support.http.service_requests import messages
from tests.support.model.model_server import ModelServer
from tests.support.service import started

SECRET = "MARK-of-this-secret"
CREATED = SessionCreated("mina", {}, 3600)
QUESTION = MessagePosted("m1", None, "user", SECRET, "r1")
ASKED_MODEL = ReplyStarted("r1", "m1", "node", "openai", "small", Parameters(), ("m1",))
REPLY = ReplyCompleted("r1", "fine", "stop", "small", 1, parts=(Reasoning(SECRET), Text("fine")))


@pytest.fixture(params=PLACES)
async def commands(request: pytest.FixtureRequest, tmp_path: Path) -> Commands:
    """A session with a question and its reply, and a fork that begins with both."""
    database = str(tmp_path / "chatbot.db")
    if request.param == "postgres":
        database = await request.getfixturevalue("postgres").schema()
    made = Commands(tmp_path, database)
    log = await open_log(made.settings.database.place)
    _, asked, _, replied = await log.append(S1, 0, [CREATED, QUESTION, ASKED_MODEL, REPLY], Metadata())
    adopted = HistoryAdopted(
        (
            AdoptedMessage("m1", None, "user", "complete", asked.position, 1),
            AdoptedMessage("r1", "m1", "assistant", "complete", replied.position, 1, model="small"),
        )
    )
    forked = SessionCreated("mina", {}, 3600, forked_from=Origin(S1, 4, "r1"))
    await log.append(S2, 0, [forked, adopted], Metadata())
    await log.close()
    return made


async def test_redact_prints_a_receipt_for_each_session_that_shows_the_message(
    commands: Commands, tmp_path: Path
) -> None:
    redact = ("redact", S2, "m1", "--reason-code", "gdpr-17", "--ticket", "DSR-7")
    code, receipts = await commands.run(*redact)
    assert (code, [one["session_id"] for one in receipts]) == (0, [S2, S1])
    assert [one["events_erased"] for one in receipts] == [0, 1]
    assert {(one["kind"], one["message_id"], one["reason_code"], one["ticket"]) for one in receipts} == {
        ("redaction", "m1", "gdpr-17", "DSR-7")
    }
    assert await commands.run(*redact) == (0, receipts)
    code, (part, of_fork) = await commands.run("redact", S1, "r1", "--part", "0", "--reason-code", "third-party")
    assert (code, part["part"], part["events_erased"]) == (0, 0, 1)
    lines = tmp_path / "receipts"
    lines.write_text("\n".join(map(json.dumps, [*receipts, part, of_fork])))
    assert (await commands.run("receipt", "--check", str(lines)))[1] == [{"text": "4 of 4 receipts are right"}]
    code, printed = await commands.run("verify")
    assert (code, SECRET in str(printed)) == (0, False)
    for moment in ("2", "6"):
        code, shown = await commands.run("replay", "--session", S1, "--as-of", moment)
        assert (SECRET in str(shown), "[text redacted: gdpr-17]" in str(shown)) == (False, True)
    assert "[reasoning redacted: third-party]" in str(shown)


async def test_prompt_says_what_was_redacted_since_the_model_was_asked(commands: Commands) -> None:
    await commands.run("redact", S1, "m1", "--reason-code", "gdpr-17")
    code, printed = await commands.run("prompt", "--reply", "r1", "--session", S1, "--json")
    assert code == 0
    assert printed[0]["request"]["messages"] == [{"role": "user", "content": "[redacted]"}]
    assert printed[0]["redacted_ids"] == ["m1"]
    assert "redacted since: message m1" in commands.notes


async def test_what_cannot_be_redacted_is_refused(commands: Commands) -> None:
    for arguments in ((NONE, "m1"), (S1, "m9")):
        with pytest.raises(CommandFailed, match=r"not found|no message"):
            await commands.run("redact", *arguments, "--reason-code", "x")
    with pytest.raises(CommandFailed, match="2 parts"):
        await commands.run("redact", S1, "r1", "--part", "2", "--reason-code", "x")
    for wrong in ((), ("--reason-code", "Nein"), ("--reason-code", "x", "--part", "-1")):
        with pytest.raises(UsageError):
            await commands.run("redact", S1, "r1", *wrong)
    await commands.run("hold", "add", "--session", S2, "--reason", "litigation")
    with pytest.raises(CommandFailed, match="legal hold"):
        await commands.run("redact", S1, "m1", "--reason-code", "x")
    assert (await commands.run("prompt", "--reply", "r1", "--session", S1, "--json"))[1][0]["redacted_ids"] == []


async def test_redact_works_through_a_running_service(tmp_path: Path, model: ModelServer) -> None:
    async with started(tmp_path, model.url) as service:
        commands = Commands(tmp_path, str(tmp_path / "chatbot.db"))
        url = ("--url", service.url.rstrip("/"))
        session_id = await service.session()
        await service.chat(session_id, SECRET)
        question, reply = await messages(service.client, session_id)
        for message in (question, reply):
            code, (receipt,) = await commands.run(
                "redact", session_id, message["message_id"], "--reason-code", "gdpr-17", *url
            )
            assert (code, receipt["kind"]) == (0, "redaction")
        with pytest.raises(CommandFailed, match="no message"):
            await commands.run("redact", session_id, NONE, "--reason-code", "gdpr-17", *url)
        with pytest.raises(CommandFailed, match="--url"):
            await commands.run("redact", session_id, NONE, "--reason-code", "gdpr-17")
    assert (await commands.run("erased", "--check", SECRET))[0] == 0
