"""What every store promises of redaction: the content of one message goes, what is left of it is read and proven."""

from msgspec.structs import replace

from events.catalogue import Event, MessageCopied, MessagePosted, MessageRedacted, ReplyCompleted, ReplyProgressed
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import NotedReferences, check_files
from events.integrity.incomplete_erasure_scan import scan_incomplete_erasures
from events.integrity.startup_check import check_integrity
from events.log import EventLog
from events.schema.parts import Media, Reasoning, Redacted, Text, ToolCall
from tests.support.log.event_builders import posted
from tests.support.log.log_texts import ALL
from tests.support.log.media import digest_of, put
from tests.support.log.redacting import redact
from tests.support.log.sample_events import ASKED, deleted

ACTOR = "tester"  # of what is recorded here
SECRET = "a secret that must go"
ASKED_WITH = MessagePosted("m1", None, "user", SECRET, "r1", idempotency_key="key", fingerprint="f", client_id="c")
REPLY = ReplyCompleted(
    "r1",
    "the answer",
    "tool_calls",
    "small",
    1_000,
    parts=(Reasoning(SECRET), Text("the answer"), ToolCall("call_1", "weather", SECRET)),
)


async def events_of(log: EventLog, stream_id: str) -> list[object]:
    return [one.event for one in await log.read(stream_id, limit=ALL)]


async def check(log: EventLog) -> None:
    """The chain, the redactions and the files hold, nothing is incomplete, and the secret is in no row."""
    verifier, fault = await verify(log, ChainVerifier(references=(noted := NotedReferences())))
    assert fault is None
    assert verifier.incomplete_erasures == []
    assert (await check_files(log, noted)).faults == []
    assert await check_integrity(log, "the log") == []
    assert await scan_incomplete_erasures(log) == []
    assert not any(SECRET in (row.data or "") for row in await log.rows(limit=ALL))


async def record(log: EventLog, stream_id: str, *events: Event) -> None:
    await log.append(stream_id, 0, events, ASKED)


async def test_a_redacted_message_is_gone_and_what_is_left_of_it_is_read_in_its_place(log: EventLog) -> None:
    await record(log, "a", ASKED_WITH, posted("m2"))
    await record(log, "b", posted("m3"))
    before = await log.rows(limit=ALL)
    recorded = await redact(log, "a", "m1")
    left = MessagePosted("m1", None, "user", "", "r1", idempotency_key="key", parts=(Redacted("text", "asked"),))
    assert await events_of(log, "a") == [left, posted("m2"), recorded]
    assert [one.event for one in await log.read_all(limit=ALL)] == [left, posted("m2"), posted("m3"), recorded]
    sizes = await log.sizes([1, 2])
    assert 0 < sizes[1] <= len((await log.rows(after=3, limit=1))[0].data or "")
    assert {position: one.event for position, one in (await log.read_at([1, 2])).items()} == {1: left, 2: posted("m2")}
    rows = await log.rows(limit=3)
    assert [(row.commitment, row.digest) for row in rows] == [(row.commitment, row.digest) for row in before]
    assert [(row.data is None, row.salt is None) for row in rows] == [(True, True), (False, False), (False, False)]
    assert (recorded.events_erased, recorded.versions) == (1, (1,))
    await check(log)


async def test_of_a_redacted_part_the_other_parts_follow_from_the_first_commitment(log: EventLog) -> None:
    await record(log, "a", posted("m1"), ReplyProgressed("r1", 0, SECRET), REPLY)
    recorded = await redact(log, "a", "r1", part=0)
    _, progressed, reply, _ = await events_of(log, "a")
    assert progressed is None
    assert isinstance(reply, ReplyCompleted)
    assert reply.parts == (Redacted("reasoning", "asked"), *REPLY.parts[1:])
    assert reply.content == "the answer"
    assert recorded.kept[0].salt != ""
    again = await redact(log, "a", "r1", part=2, reason_code="again")
    reply = (await events_of(log, "a"))[2]
    assert isinstance(reply, ReplyCompleted)
    call = Redacted("tool_call", "again", "call_1", "weather")
    assert reply.parts == (Redacted("reasoning", "asked"), Text("the answer"), call)
    assert again.kept[0].salt != ""
    assert again.versions == (2, 3, 4)
    await check(log)


async def test_a_later_redaction_of_a_message_replaces_what_an_earlier_one_kept(log: EventLog) -> None:
    await record(log, "a", posted("m1"), REPLY)
    first = await redact(log, "a", "r1", part=0)
    await redact(log, "a", "r1", part=1)
    third = await redact(log, "a", "r1")
    events = await events_of(log, "a")
    reply, earlier = events[1], events[2]
    assert isinstance(reply, ReplyCompleted)
    assert [(one.kind, one.reason_code) for one in reply.parts if isinstance(one, Redacted)] == [
        ("reasoning", "asked"),
        ("text", "asked"),
        ("tool_call", "asked"),
    ]
    assert reply.content == ""
    assert earlier == MessageRedacted("r1", "asked", 0, "T-1", events_erased=first.events_erased)
    assert third.versions == (2, 3, 4)
    assert not any("the answer" in (row.data or "") for row in await log.rows(limit=ALL))
    await check(log)


async def test_a_redacted_copy_of_a_message_is_gone(log: EventLog) -> None:
    await record(log, "a", posted("m1"), MessageCopied("m0", "user", SECRET))
    await redact(log, "a", "m0")
    assert (await events_of(log, "a"))[1] == MessageCopied("m0", "user", "", parts=(Redacted("text", "asked"),))
    await check(log)


async def test_a_file_of_a_redacted_part_goes_and_those_of_other_parts_stay(log: EventLog) -> None:
    gone, kept = await put(log, b"1" * 5000, holder=ACTOR), await put(log, b"2" * 5000, holder=ACTOR)
    parts = tuple(Media(one.sha256, one.media_type, one.bytes) for one in (gone, kept))
    await record(log, "a", MessagePosted("m1", None, "user", "Look", parts=(*parts, Text("Look"))))
    await redact(log, "a", "m1", part=0)
    assert set(await log.media.stat([gone.sha256, kept.sha256])) == {kept.sha256}
    await check(log)
    await redact(log, "a", "m1", part=2)
    assert set(await log.media.stat([gone.sha256, kept.sha256])) == {kept.sha256}
    await check(log)
    await redact(log, "a", "m1")
    assert await log.media.stat([digest_of(b"2" * 5000)]) == {}
    assert await log.media.unused_bytes(ACTOR) == 0
    await check(log)


async def test_a_session_with_a_redaction_is_erased_with_what_the_redaction_kept(log: EventLog) -> None:
    await record(log, "a", posted("m1"), REPLY)
    await redact(log, "a", "r1", part=0)
    await log.erase("a", 3, deleted(), ASKED)
    assert await events_of(log, "a") == [None, None, None, deleted()]
    assert not any("answer" in (row.data or "") for row in await log.rows(limit=ALL))
    await check(log)


async def test_content_that_is_gone_without_a_redaction_that_names_it_is_a_fault(log: EventLog) -> None:
    await record(log, "a", posted("m1"), posted("m2"), posted("m3"))
    event = await redact(log, "a", "m1")
    verifier = ChainVerifier()
    rows = await log.rows(limit=ALL)
    assert [verifier.check(row) for row in rows] == [None] * 4
    assert verifier.finish() is None
    assert event.versions == (1,)
    forged = ChainVerifier()
    for row in rows:
        erased = replace(row, data=None, salt=None) if row.version == 2 else row
        assert forged.check(erased) is None
    assert forged.finish() is not None
    assert forged.first_unexplained == {"a": 2}
