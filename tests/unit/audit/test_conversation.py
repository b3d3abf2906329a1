"""A conversation folded from its events stands as the history says, and as it said at each moment before."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant
from msgspec.structs import asdict

from chatbot.api.responses import message_view
from chatbot.audit.conversation import Conversation, load_conversation
from chatbot.audit.conversation_rendering import ExportedMessage, build_document
from chatbot.audit.point_in_time import PointInTime
from chatbot.sessions.domain import rejections
from events.catalogue import (
    AdoptedMessage,
    BranchSelected,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    ReplyCompleted,
    ReplyFailed,
    ReplyProgressed,
    ReplyRequested,
    SessionDeleted,
    SessionExpired,
    ToolCallsClosed,
)
from events.schema.parts import Media, Reasoning, Text, ToolCall, ToolResult, parts_of
from tests.property.test_session_model import SessionsAgainstModel
from tests.support.log.event_builders import created, posted, started, turn
from tests.support.log.memory_log import START_US, STEP_US, MemoryLog
from tests.support.nightly import scaled

FIELDS = [name for name in ExportedMessage.__struct_fields__ if name not in ("parts", "calls")]


async def at(log: MemoryLog, moment: PointInTime | None = None, session_id: str = "s") -> Conversation:
    conversation = await load_conversation(log, session_id, moment)
    assert conversation is not None
    return conversation


def told(conversation: Conversation) -> list[tuple[str, str, str]]:
    return [(one.message_id, one.status, one.content) for one in conversation.branch()]


async def test_a_session_stands_at_each_version_as_its_events_up_to_then_tell() -> None:
    log = MemoryLog()
    events = (created(title="T"), posted("m", None, "r"), started("r", "m"), ReplyProgressed("r", 0, "ab"))
    log.record("s", *events, ReplyProgressed("r", 2, "c"), ReplyFailed("r", "abcd", "llm_failed"))
    question = ("m", "complete", "words of m")
    replies = [None, ("queued", ""), ("streaming", ""), ("streaming", "ab"), ("streaming", "abc"), ("failed", "abcd")]
    for version, reply in enumerate(replies, start=1):
        conversation = await at(log, PointInTime(version=version))
        assert (conversation.version, conversation.at_us) == (version, START_US + version * STEP_US)
        assert told(conversation) == ([question, ("r", *reply)] if reply else [])
        created_at_us = START_US + (3 if version >= 3 else 2) * STEP_US  # a reply is as old as its start
        assert [one.created_at_us for one in conversation.branch()[1:]] == ([created_at_us] if reply else [])
        assert await at(log, PointInTime(at_us=conversation.at_us)) == conversation
        assert await at(log, PointInTime(at_us=conversation.at_us + STEP_US - 1)) == conversation
    assert await at(log) == await at(log, PointInTime(version=6)) == await at(log, PointInTime(version=999))


THOUGHT, CALL = Reasoning("hm", 5), ToolCall("call_1", "weather", '{"city":"Seoul"}')
RESULT = ToolResult("call_1", (Text("21"), Media("ab" * 32, "image/png", 3)))


async def test_parts_grow_and_calls_are_answered_as_the_events_up_to_then_tell() -> None:
    log = MemoryLog()
    log.record("s", created(), posted("m", None, "r"), started("r", "m"))
    log.record("s", ReplyProgressed("r", 0, "hm", kind="reasoning"), ReplyProgressed("r", 2, "So", part=1))
    call = ReplyProgressed("r", 4, '{"city"', part=2, kind="tool_call", call_id="call_1", name="weather")
    ended = ReplyCompleted("r", "So", "tool_calls", "m", 1, parts=(THOUGHT, Text("So"), CALL))
    log.record(
        "s",
        call,
        ended,
        MessagePosted("t", "r", "tool", "", "r2", parts=(RESULT,)),
        ToolCallsClosed("r", ("call_1",), "superseded"),
    )
    expected = {
        4: ("", (Reasoning("hm"),), None),
        5: ("So", (Reasoning("hm"), Text("So")), None),
        6: ("So", (Reasoning("hm"), Text("So"), ToolCall("call_1", "weather", '{"city"')), None),
        7: ("So", (THOUGHT, Text("So"), CALL), "open"),
        8: ("So", (THOUGHT, Text("So"), CALL), "answered"),
        9: ("So", (THOUGHT, Text("So"), CALL), "closed"),
    }
    for version, (content, parts, calls) in expected.items():
        reply = (await at(log, PointInTime(version=version))).messages["r"]
        assert (reply.content, reply.parts, reply.calls) == (content, parts, calls)
    assert (await at(log)).messages["t"].parts == (RESULT,)
    assert not (await at(log)).growing


@pytest.mark.parametrize("moment", [PointInTime(version=0), PointInTime(at_us=START_US + STEP_US - 1)])
async def test_before_it_began_there_is_no_session(moment: PointInTime) -> None:
    log = MemoryLog()
    log.record("s", created())
    assert await load_conversation(log, "s", moment) is None
    assert await load_conversation(log, "other") is None


async def test_where_the_clock_was_set_back_no_event_is_missing_in_the_middle() -> None:
    log = MemoryLog()
    log.record("s", created(), *turn(1))
    log.now_us = START_US
    log.record("s", *turn(2, "r1"))
    conversation = await at(log, PointInTime(at_us=START_US + STEP_US))  # the first event's time, and that of the fifth
    assert conversation.version == 5
    assert told(conversation)[0] == ("m1", "complete", "words of m1")


async def test_another_branch_and_a_further_answer_are_the_end_of_the_selected_branch() -> None:
    log = MemoryLog()
    log.record("s", created(), *turn(1), *turn(2, "r1"))
    log.record("s", BranchSelected("r1"), ReplyRequested("r3", "m1"), started("r3", "m1"))
    assert [one[0] for one in told(await at(log, PointInTime(version=7)))] == ["m1", "r1", "m2", "r2"]
    assert [one[0] for one in told(await at(log, PointInTime(version=8)))] == ["m1", "r1"]
    conversation = await at(log)
    assert [one[0] for one in told(conversation)] == ["m1", "r3"]
    assert [one.message_id for one in conversation.branch("r2")] == ["m1", "r1", "m2", "r2"]
    assert conversation.messages.keys() == {"m1", "r1", "m2", "r2", "r3"}


async def test_an_adopted_history_has_its_texts_also_after_its_origin_is_gone() -> None:
    log = MemoryLog()
    log.record("s", created(), *turn(1))
    adopted = [("m1", None, "user", 2), ("r1", "m1", "assistant", 4)]
    messages = tuple(AdoptedMessage(i, p, role, "complete", at, START_US) for i, p, role, at in adopted)
    log.record("fork", created(), HistoryAdopted(messages))
    before = await at(log, session_id="fork")
    assert [one.content for one in before.branch()] == ["words of m1", "answer r1"]
    log.record("fork", MessageCopied("m1", "user", "words of m1"), MessageCopied("r1", "assistant", "answer r1"))
    log.erase_now("s", SessionDeleted("requested"))
    for moment in (PointInTime(), PointInTime(version=2)):
        conversation = await at(log, moment, session_id="fork")
        assert [one.content for one in conversation.branch()] == ["words of m1", "answer r1"]


async def test_of_an_erased_session_its_times_and_its_owner_are_left() -> None:
    log = MemoryLog()
    log.record("s", created(title="T"), *turn(1))
    log.erase_now("s", SessionDeleted("requested", owner="alice"))
    conversation = await at(log)
    assert (conversation.status, conversation.owner, conversation.erased) == ("deleted", "alice", 4)
    assert (conversation.messages, conversation.title, conversation.metadata) == ({}, None, {})
    assert conversation.created_at_us == START_US + STEP_US
    earlier = await at(log, PointInTime(version=4))
    assert (earlier.status, earlier.messages, earlier.erased) == ("active", {}, 4)


async def test_an_expired_session_keeps_its_texts() -> None:
    log = MemoryLog()
    log.record("s", created(), *turn(1), SessionExpired(1))
    conversation = await at(log)
    assert (conversation.status, len(told(conversation))) == ("expired", 2)


def told_fields(message: ExportedMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in FIELDS}


class ConversationsAgainstHistories(SessionsAgainstModel):
    """Whatever happens to sessions. Notes what the history says at each version, to compare it at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[tuple[str, int], list[ExportedMessage]] = {}

    @invariant()
    def the_conversation_is_the_history(self) -> None:
        for talk in self.talks.values():
            self.run(self.compare(talk.session_id))

    async def compare(self, session_id: str) -> None:
        conversation = await load_conversation(self.real.log, session_id)
        assert conversation is not None
        try:
            history = await self.real.reader.history(session_id, None, 1000, None)
        except rejections.SessionDeleted:
            assert (conversation.status, conversation.messages) == ("deleted", {})
            return
        session = history.session
        assert (conversation.version, conversation.head) == (session.version, session.head)
        assert (conversation.status, conversation.owner) == (session.status, session.owner)
        (described,) = await self.real.reader.with_metadata([session])
        assert (conversation.title, conversation.metadata) == (described.title, described.metadata)
        exported = build_document(conversation).messages
        listed = [asdict(message_view(one, session_id)) for one in history.messages]
        assert [told_fields(one) for one in exported] == [{name: one[name] for name in FIELDS} for one in listed]
        assert [list(parts_of(one)) for one in conversation.branch()] == [one["parts"] for one in listed]
        self.said[session_id, session.version] = exported

    def teardown(self) -> None:
        self.run(self.look_back())
        super().teardown()

    async def look_back(self) -> None:
        for (session_id, version), said in self.said.items():
            conversation = await load_conversation(self.real.log, session_id, PointInTime(version=version))
            assert conversation is not None
            if not conversation.erased:
                assert build_document(conversation).messages == said


ConversationsAgainstHistories.TestCase.settings = settings(
    max_examples=scaled(15),
    stateful_step_count=25,
    deadline=None,  # the disk decides how long an fsync takes
    suppress_health_check=[HealthCheck.too_slow],
)
TestConversationsAgainstHistories = ConversationsAgainstHistories.TestCase
