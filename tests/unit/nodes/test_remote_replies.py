"""Mirrors of other nodes' replies: a reader that joins, leaves or returns late gets everything that is recorded."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from msgspec.structs import replace

from chatbot.nodes import reply_mirrors as module
from chatbot.nodes.held_streams import HeldStreams
from chatbot.nodes.node_client import NodeClient, PartHeader
from chatbot.nodes.node_id import NodeAddress, format_node_id
from chatbot.nodes.reply_mirrors import MirrorContext, ReplyMirrors
from chatbot.sessions.feeds.channels import ChannelRegistry, wait_any
from chatbot.sessions.replies.growing_parts import build_parts
from events.catalogue import Parameters, ReplyCompleted, ReplyProgressed, ReplyStarted, SessionCreated
from events.errors import LogUnavailable
from events.record import Metadata, RecordedEvent
from events.schema.parts import Reasoning, Text, ToolCall
from projections.folds.session import OpenReply
from tests.support.log.memory_log import MemoryLog

OTHER = format_node_id("127.0.0.2", 80, "11111111")
WRITTEN = OpenReply("r", "m", 2, node=OTHER)
STARTED = ReplyStarted("r", "m", OTHER, "openai", "small", Parameters(), ())


class SlowLog(MemoryLog):
    """Answers a read with what was there when it was asked, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refusal: LogUnavailable | None = None

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        found = await super().read(stream_id, after=after, limit=limit, backwards=backwards)
        await self.may_answer.wait()
        if self.refusal is not None:
            raise self.refusal
        return found


class Pinging(NodeClient):
    """The other node: it lives, and has nothing new to say."""

    def __init__(self) -> None:
        self.asked = 0

    async def text(self, address: NodeAddress, where: tuple[str, str], after: int) -> AsyncGenerator[str, None]:
        self.asked += 1
        while True:
            yield ""
            await asyncio.sleep(0.001)


class Talking(NodeClient):
    """The other node: it sends `lines`, then nothing."""

    def __init__(self, *lines: str | PartHeader) -> None:
        self.lines = lines
        self.asked_after: list[int] = []

    async def text(
        self, address: NodeAddress, where: tuple[str, str], after: int
    ) -> AsyncGenerator[str | PartHeader, None]:
        self.asked_after.append(after)
        for line in self.lines:
            yield line
        while True:
            yield ""
            await asyncio.sleep(0.001)


class Quiet:
    def mirrors(self, count: int) -> None: ...

    def peer_failed(self, question: str) -> None: ...


@pytest.fixture
def log() -> SlowLog:
    log = SlowLog()
    log.record("s", SessionCreated(None, {}, 60), STARTED)
    return log


@pytest.fixture
def mirrors(log: SlowLog) -> ReplyMirrors:
    return ReplyMirrors(
        MirrorContext(
            own_name=format_node_id("127.0.0.1", 80, "00000000"),
            log=log,
            feeds=ChannelRegistry(),
            held_streams=HeldStreams(log),
            node_client=Pinging(),
            mirrors_max=10,
            timer=time.monotonic,
            on_node_lost=lambda: None,
            observe=Quiet(),
        )
    )


async def test_who_asks_for_a_mirror_and_leaves_at_once_spoils_it_for_nobody(
    log: SlowLog, mirrors: ReplyMirrors
) -> None:
    log.may_answer.clear()
    hasty = asyncio.create_task(mirrors.mirror_running("s", WRITTEN))
    await asyncio.sleep(0)
    patient = asyncio.create_task(mirrors.mirror_running("s", WRITTEN))
    await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.sleep(0)
    log.may_answer.set()
    reply = await patient
    assert reply is not None
    assert reply.version == 2, "it has heard that the reply has started, and follows it"
    assert mirrors.running_reply("s") is reply
    await mirrors.close()


async def test_a_node_that_an_imported_event_names_is_not_asked(log: SlowLog, mirrors: ReplyMirrors) -> None:
    """The author of the imported file chose that address."""
    log.events[-1] = replace(log.events[-1], metadata=Metadata(imported="chatbot-log/0:2"))
    reply = await mirrors.mirror_running("s", WRITTEN)
    assert reply is not None
    assert (reply.version, mirrors.running_reply("s")) == (2, reply)
    for recorded in log.record("s", ReplyProgressed("r", 0, "some")):
        mirrors.on_remote_append(recorded)
    await asyncio.sleep(0)
    assert reply.text == "some", "the log tells what there is"
    node_client = mirrors._context.node_client
    assert isinstance(node_client, Pinging)
    assert node_client.asked == 0
    await mirrors.close()


async def test_a_mirror_has_the_parts_that_the_other_node_sends_and_the_log_has(
    log: SlowLog, mirrors: ReplyMirrors
) -> None:
    call = PartHeader(2, "tool_call", "call_1", "weather")
    lines = (PartHeader(1), "Look.", call, "{", "}", PartHeader(3, "tool_call", "call_2", "time"))
    node_client = Talking(*lines)
    mirrors._context = replace(mirrors._context, node_client=node_client)
    log.record("s", ReplyProgressed("r", 0, "hm", 0, "reasoning"))
    reply = await mirrors.mirror_running("s", WRITTEN)
    assert reply is not None
    async with asyncio.timeout(5):
        while reply.last_part < 3:
            await wait_any(reply.signal)
    assert node_client.asked_after == [2]
    parts = (Reasoning("hm"), Text("Look."), ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "time", ""))
    assert build_parts(reply.text, reply._marks) == parts
    for recorded in log.record("s", ReplyProgressed("r", 7, "{}", 2, "tool_call", "call_1", "weather")):
        mirrors.on_remote_append(recorded)  # the log is behind
    for recorded in log.record("s", ReplyProgressed("r", 9, "{}", 3, "tool_call", "call_2", "time")):
        mirrors.on_remote_append(recorded)  # and now ahead
    assert build_parts(reply.text, reply._marks)[3] == ToolCall("call_2", "time", "{}")
    ended = ReplyCompleted("r", "Look.", "tool_calls", "small", 1, parts=parts)
    for recorded in log.record("s", ended):
        mirrors.on_remote_append(recorded)
    outcome = await reply.wait_end()
    assert (outcome.content, outcome.parts, reply.text) == ("Look.", parts, "hmLook.{}")


async def test_what_is_recorded_while_a_mirror_reads_the_log_is_no_gap_in_it(
    log: SlowLog, mirrors: ReplyMirrors
) -> None:
    log.may_answer.clear()
    asking = asyncio.create_task(mirrors.mirror_running("s", WRITTEN))
    await asyncio.sleep(0.001)
    for recorded in log.record("s", ReplyProgressed("r", 0, "some")):  # the tail is faster than the read
        mirrors.on_remote_append(recorded)
    log.may_answer.set()
    reply = await asking
    assert reply is not None
    assert (reply.version, reply.text) == (2, "some")
    for recorded in log.record("s", ReplyCompleted("r", "some text", "stop", "small", 1)):
        mirrors.on_remote_append(recorded)
    assert (await reply.wait_end()).content == "some text"


async def test_a_mirror_that_could_not_read_the_log_is_none_and_says_so(log: SlowLog, mirrors: ReplyMirrors) -> None:
    log.may_answer.clear()
    log.refusal = LogUnavailable("cut")
    asking = [asyncio.create_task(mirrors.mirror_running("s", WRITTEN)) for _ in range(2)]
    await asyncio.sleep(0.001)
    log.may_answer.set()
    for one in asking:
        with pytest.raises(LogUnavailable):
            await one
    log.refusal = None
    reply = await mirrors.mirror_running("s", WRITTEN)
    assert reply is not None
    assert reply.version == 2
    await mirrors.close()


async def test_a_reader_that_stalled_until_its_mirror_was_given_up_does_not_wait_for_ever(
    mirrors: ReplyMirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNREAD_MIRROR_S", 0.05)
    reply = await mirrors.mirror_running("s", WRITTEN)
    assert reply is not None
    async with asyncio.timeout(5):
        while mirrors.has("s"):  # nobody listens: its socket takes nothing
            await asyncio.sleep(0.01)
    with pytest.raises(LogUnavailable, match="follow the session"):
        async with asyncio.timeout(1):
            await reply.wait_end()


async def test_a_mirror_is_held_as_long_as_it_is_there(log: SlowLog, mirrors: ReplyMirrors) -> None:
    assert await mirrors.mirror_running("s", WRITTEN) is not None
    assert log.held == {"s"}
    for recorded in log.record("s", ReplyCompleted("r", "some text", "stop", "small", 1)):
        mirrors.on_remote_append(recorded)
    assert not log.held
