"""Redactions that are incomplete, or keep something else than was recorded, are found; the first kind is finished."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from chatbot.cli.proof.verify import describe_unfinished_erasures
from events.catalogue import MessagePosted, MessageRedacted, ReplyCompleted, SessionViewed
from events.integrity.chain_verifier import verify
from events.integrity.incomplete_erasure_scan import scan_incomplete_erasures
from events.integrity.incomplete_erasures import IncompleteErasure, finish_erasure
from events.integrity.startup_check import check_integrity
from events.message_content import MessageContent
from events.schema.parts import Reasoning, Text
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.event_builders import posted
from tests.support.log.log_files import foreign
from tests.support.log.log_texts import ALL
from tests.support.log.redacting import redact
from tests.support.log.sample_events import ASKED, deleted

REPLY = ReplyCompleted("r1", "fine", "stop", "small", 1, parts=(Reasoning("hm"), Text("fine")))


async def test_a_redaction_whose_erasure_is_missing_is_found_and_finished(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("m1"), posted("m2"), REPLY], ASKED)
    await log.close()
    foreign(
        path, "DROP TRIGGER events_redact", "CREATE TRIGGER events_redact AFTER INSERT ON events BEGIN SELECT 1; END"
    )
    log = await SqliteLog.open(path)
    await redact(log, "a", "m2")
    await redact(log, "a", "r1", part=0)
    left = [IncompleteErasure("a", 2, 4, "m2")]
    verifier, fault = await verify(log)
    assert (fault, verifier.incomplete_erasures) == (None, left)
    assert await scan_incomplete_erasures(log) == left
    remedy = describe_unfinished_erasures(left)
    assert "chatbot redact a m2" in remedy
    assert "erase --session" not in remedy, "that would erase the conversation"
    assert await check_integrity(log, path) == [IncompleteErasure("a", 2, 4), IncompleteErasure("a", 3, 5)]
    assert await finish_erasure(log, "a")
    assert not await finish_erasure(log, "a")
    verifier, fault = await verify(log)
    assert (fault, verifier.incomplete_erasures) == (None, [])
    rows = await log.rows(limit=ALL)
    assert [row.data is None for row in rows] == [False, True, True, False, False]
    await log.erase("a", 5, deleted(), ASKED)
    assert (await verify(log))[1] is None
    await log.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.replace("fine", "evil"), "what is left of it is not what was recorded"),
        (lambda data: data.replace('"reply_completed"', '"reply_failed","cause":"x"'), "another type"),
        (lambda data: data[:-5], "cannot be read"),
    ],
)
async def test_what_a_redaction_keeps_is_checked_against_the_first_commitment(
    tmp_path: Path, change: object, reason: str
) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("m1"), REPLY], ASKED)
    content = MessageContent("r1")
    content.add(await log.stream_rows("a", limit=ALL))
    event = content.redact(MessageRedacted("r1", "asked", 0))
    assert callable(change)
    forged = replace(event, kept=(replace(event.kept[0], data=change(event.kept[0].data)),))
    await log.erase("a", 2, forged, ASKED)
    _, fault = await verify(log)
    assert fault is not None
    assert (fault.position, reason in fault.reason) == (2, True)
    await log.close()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (None, lambda data: data.replace('"content":""', '"content":"forged"')),
        (None, lambda data: data.replace('{"type":"redacted","kind":"text"', '{"type":"text","text":"forged"')),
        (0, lambda data: data.replace('"content":""', '"content":"forged"')),
        (None, lambda data: data.replace('"message_id":"m1"', '"message_id":"m2"')),
    ],
)
async def test_a_redaction_puts_no_other_content_in_the_place_of_a_text(
    tmp_path: Path, part: int | None, change: Callable[[str], str]
) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [MessagePosted("m1", None, "user", "said", fingerprint="f")], ASKED)
    content = MessageContent("m1")
    content.add(await log.stream_rows("a", limit=ALL))
    event = content.redact(MessageRedacted("m1", "asked", part))
    (kept,) = event.kept
    assert change(kept.data) != kept.data
    await log.erase("a", 1, replace(event, kept=(replace(kept, data=change(kept.data)),)), ASKED)
    _, fault = await verify(log)
    assert fault is not None
    assert (fault.position, "is left of it" in fault.reason) == (1, True)
    await log.close()


async def test_a_redaction_does_not_explain_that_other_events_are_gone(tmp_path: Path) -> None:
    """Such as the record of who has read the session."""
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("m1"), SessionViewed("history"), posted("m2")], ASKED)
    content = MessageContent("m1")
    content.add(await log.stream_rows("a", limit=ALL))
    event = content.redact(MessageRedacted("m1", "asked"))
    await log.erase("a", 3, replace(event, versions=(1, 2)), ASKED)
    _, fault = await verify(log)
    assert fault is not None
    assert (fault.position, "a redaction names it" in fault.reason) == (2, True)
    await log.close()


async def test_what_is_kept_of_another_type_is_not_read(tmp_path: Path) -> None:
    """It would stop every projection."""
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("m1"), REPLY], ASKED)
    content = MessageContent("r1")
    content.add(await log.stream_rows("a", limit=ALL))
    event = content.redact(MessageRedacted("r1", "asked"))
    data = event.kept[0].data.replace('"reply_completed"', '"reply_failed","cause":"x"')
    await log.erase("a", 2, replace(event, kept=(replace(event.kept[0], data=data),)), ASKED)
    assert [one.event for one in await log.read("a", limit=2)] == [posted("m1"), None]
    _, fault = await verify(log)
    assert fault is not None
    assert "another type" in fault.reason
    await log.close()


async def test_only_a_redaction_of_the_session_says_what_is_left(tmp_path: Path) -> None:
    """The index, which is not chained, may name any event."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("m1")], ASKED)
    await log.append("b", 0, [posted("m2")], ASKED)
    await redact(log, "a", "m1")
    await log.erase("b", 1, deleted(), ASKED)
    await log.close()
    foreign(path, "INSERT INTO events_redacted VALUES (2, 3)").close()
    log = await SqliteLog.open(path)
    assert [one.event for one in await log.read("b", limit=ALL)] == [None, deleted()]
    await log.close()


async def test_content_that_is_gone_and_that_no_redaction_names_is_a_fault_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted(f"m{number}") for number in range(1, 6)], ASKED)
    await redact(log, "a", "m1")
    await log.close()
    foreign(path, "UPDATE events SET data = NULL, salt = NULL WHERE position IN (2, 4)").close()
    log = await SqliteLog.open(path, read_only=True)
    _, fault = await verify(log)
    assert fault is not None
    assert (fault.position, "no later event" in fault.reason) == (2, True)
    await log.close()


async def test_a_log_without_the_index_of_redactions_is_read(tmp_path: Path) -> None:
    """As one of version 0.7, which is opened for reading only."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("m1")], ASKED)
    await log.erase("a", 1, deleted(), ASKED)
    await log.close()
    foreign(path, "DROP TRIGGER events_redact", "DROP TABLE events_redacted").close()
    log = await SqliteLog.open(path, read_only=True)
    assert [one.event for one in await log.read("a", limit=ALL)] == [None, deleted()]
    await log.close()
    log = await SqliteLog.open(path)
    await log.append("b", 0, [MessagePosted("m2", None, "user", "secret")], ASKED)
    await redact(log, "b", "m2")
    assert not any("secret" in str(row.data) for row in await log.rows(limit=ALL))
    await log.close()
