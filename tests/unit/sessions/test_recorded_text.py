from typing import Any

import pytest

from chatbot.sessions.replies.recorded_text import RecordedReply, recorded_reply
from events.catalogue import ReplyProgressed
from events.schema.parts import PARTS_MAX, Reasoning, Refusal, Text, ToolCall
from projections.folds.session import OpenReply
from tests.support.log.event_builders import created, posted, started
from tests.support.log.memory_log import MemoryLog

RUNNING = OpenReply("r", "m", version=3)


class CountingLog(MemoryLog):
    """Remembers after which versions it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[int] = []
        self.record("s", created(), posted("m", None, "r"), started("r", "m"))
        self.record("s", *(ReplyProgressed("r", 3 * n, f"<{n}>") for n in range(4)))  # versions 4 to 7

    async def read(self, stream_id: str, *, after: int = 0, **how: Any) -> Any:
        self.after.append(after)
        return await super().read(stream_id, after=after, **how)


async def test_what_is_known_of_a_running_reply_is_not_read_again() -> None:
    log = CountingLog()
    known = await recorded_reply(log, "s", RUNNING, page=9, up_to=5)
    assert known == RecordedReply(5, "<0><1>")
    log.after.clear()
    newest = await recorded_reply(log, "s", RUNNING, page=9, up_to=7, known=known)
    assert (newest.text, log.after) == ("<0><1><2><3>", [5])
    assert await recorded_reply(log, "s", RUNNING, page=9, up_to=5, known=known) == known
    assert log.after == [5]


async def test_the_parts_of_a_running_reply_are_those_of_its_checkpoints() -> None:
    log = MemoryLog()
    log.record("s", created(), posted("m", None, "r"), started("r", "m"))
    log.record(
        "s",
        ReplyProgressed("r", 0, "hm", 0, "reasoning"),
        ReplyProgressed("r", 2, "m", 0, "reasoning"),
        ReplyProgressed("r", 3, "Look:", 1),
        ReplyProgressed("r", 8, "", 2, "tool_call", "c1", "weather"),
        ReplyProgressed("r", 8, "{", 2, "tool_call", "c1", "weather"),
        ReplyProgressed("r", 9, "", 3, "tool_call", "c2", "time"),
    )
    reply = await recorded_reply(log, "s", RUNNING, page=2)
    assert reply.content == "Look:"
    assert reply.parts == (
        Reasoning("hmm"),
        Text("Look:"),
        ToolCall("c1", "weather", "{"),
        ToolCall("c2", "time", ""),
    )
    early = await recorded_reply(log, "s", RUNNING, page=2, up_to=6)
    assert await recorded_reply(log, "s", RUNNING, page=2, known=early) == reply


async def test_a_running_reply_of_text_has_no_parts() -> None:
    assert (await recorded_reply(CountingLog(), "s", RUNNING, page=9)).parts == ()


async def test_text_that_other_parts_follow_becomes_the_first_part() -> None:
    log = MemoryLog()
    log.record("s", created(), posted("m", None, "r"), started("r", "m"))
    log.record("s", ReplyProgressed("r", 0, "No. "), ReplyProgressed("r", 4, "Because", 1, "refusal"))
    assert (await recorded_reply(log, "s", RUNNING, page=9)).parts == (Text("No. "), Refusal("Because"))


@pytest.mark.parametrize(
    "odd", [ReplyProgressed("r", 4, "{}", 1, "tool_call"), ReplyProgressed("r", 4, "", 1, "tool_call", "c" * 999, "f")]
)
async def test_checkpoints_that_no_program_of_ours_wrote_leave_the_text(odd: ReplyProgressed) -> None:
    log = MemoryLog()
    log.record("s", created(), posted("m", None, "r"), started("r", "m"))
    log.record("s", ReplyProgressed("r", 0, "text"), odd)
    reply = await recorded_reply(log, "s", RUNNING, page=9)
    assert (reply.content, reply.parts) == ("text", ())


async def test_more_checkpoints_than_parts_may_be_leave_the_text() -> None:
    log = MemoryLog()
    log.record("s", created(), posted("m", None, "r"), started("r", "m"), ReplyProgressed("r", 0, "text"))
    log.record("s", *[ReplyProgressed("r", 4, "", n, "tool_call", f"c{n}", "f") for n in range(1, PARTS_MAX + 1)])
    reply = await recorded_reply(log, "s", RUNNING, page=9)
    assert (reply.content, reply.parts) == ("text", ())
