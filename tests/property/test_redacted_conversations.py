"""Random conversations, forks and redactions: nothing that was redacted is read, folded, followed or found in a file,
all else is as it was, and each fold gives the same whether it met an event before its redaction or after it.
"""

import asyncio
import re
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.json import encode

from chatbot.audit.conversation import load_conversation
from chatbot.audit.model_calls import read_model_calls
from chatbot.audit.point_in_time import PointInTime
from chatbot.sessions.domain import state as sessions
from chatbot.sessions.feeds.reader_cursor import ReaderCursor, advance
from events.catalogue import (
    AdoptedMessage,
    Event,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    Origin,
    ReplyCancelled,
    ReplyCompleted,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionDeleted,
)
from events.integrity.chain_verifier import verify
from events.record import RecordedEvent
from events.schema.parameters import Parameters
from events.schema.parts import Parts, Reasoning, Text, ToolCall, parts_of, stored_parts, text_of
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.folds import session as facts
from projections.folds.batch import fold
from tests.support.log.log_texts import ALL
from tests.support.log.redacting import redact
from tests.support.log.sample_events import ASKED
from tests.support.log.sample_log import created
from tests.support.nightly import scaled

MARK = re.compile(rb"<(\d{7})>")
RECENT_MAX = 1_000  # more than there are
STREAMS = ("a", "b", "c")


class Turn(Struct, frozen=True):
    """A message and its reply: `kinds` of its parts, how it ends, and how often it was interrupted before."""

    stream: int
    kinds: tuple[str, ...]
    is_cancelled: bool
    attempts: int


class Redact(Struct, frozen=True):
    stream: int
    message: int
    part: int | None


class Fork(Struct, frozen=True):
    stream: int
    copies: bool  # as if the session that it was forked from were erased


class Delete(Struct, frozen=True):
    stream: int


kinds = st.lists(st.sampled_from(["text", "text", "reasoning", "tool_call"]), min_size=1, max_size=3).map(tuple)
which = st.integers(0, 2)
turns = st.builds(Turn, which, kinds, st.booleans(), st.integers(0, 1))
redactions = st.builds(Redact, which, st.integers(0, 9), st.one_of(st.none(), st.integers(0, 3)))
steps = st.one_of(turns, turns, redactions, redactions, st.builds(Fork, which, st.booleans()), st.builds(Delete, which))


class Conversations:
    """A log under such steps. `recorded` are the events as they were when they were recorded."""

    def __init__(self, log: SqliteLog) -> None:
        self.log = log
        self.recorded: list[RecordedEvent] = []
        self.messages: dict[str, dict[str, list[set[int]]]] = {}  # by stream and message, the marks of each part
        self.positions: dict[str, tuple[int, str, str | None]] = {}  # of a message: its text, its role, its parent
        self.gone: set[int] = set()
        self.number = 0

    def mark(self) -> str:
        """A text that no other is."""
        self.number += 1
        return f"<{self.number:07d}>" * 3

    async def append(self, stream: str, *events: Event) -> tuple[RecordedEvent, ...]:
        version = sum(one.stream_id == stream for one in self.recorded)
        recorded = await self.log.append(stream, version, events, ASKED)
        self.recorded += recorded
        return recorded

    async def run(self, step: Turn | Redact | Fork | Delete) -> None:
        stream = STREAMS[step.stream]
        if stream not in self.messages and not isinstance(step, Fork):
            await self.append(stream, created(None))
            self.messages[stream] = {}
        match step:
            case Turn():
                await self.turn(stream, step)
            case Redact():
                await self.redact(stream, step)
            case Fork():
                await self.fork(stream, copies=step.copies)
            case Delete():
                await self.delete(stream)

    async def turn(self, stream: str, step: Turn) -> None:
        number = self.number
        ids = message_id, reply_id = f"m{number}-{stream}", f"r{number}-{stream}"
        parent = next(reversed(self.messages[stream]), None)
        question = self.mark()
        posted = MessagePosted(message_id, parent, "user", question, reply_id)
        (asked,) = await self.append(stream, posted)
        all_marks: list[set[int]] = []
        for attempt in range(1, step.attempts + 2):
            if attempt > 1:
                await self.append(stream, ReplyRequested(reply_id, message_id, attempt=attempt))
            started = ReplyStarted(reply_id, message_id, "n", "openai", "small", Parameters(), (message_id,), attempt)
            await self.append(stream, started)
            parts = self.parts(step.kinds)
            all_marks = all_marks or [set() for _ in parts]
            for known, part in zip(all_marks, parts, strict=True):
                known.update(numbers_in(encode(part)))
            progressed, offset = [], 0
            for index, part in enumerate(parts):
                text = part.arguments if isinstance(part, ToolCall) else part.text  # type: ignore[union-attr]
                kind = str(part.__struct_config__.tag)
                progressed.append(ReplyProgressed(reply_id, offset, text, index, kind, "call" * (kind == "tool_call")))
                offset += len(text)
            await self.append(stream, *progressed)
            ended: Event = ReplyCompleted(reply_id, text_of(parts), "stop", "small", 1, parts=stored_parts(parts))
            if attempt <= step.attempts:
                ended = ReplyInterrupted(reply_id, text_of(parts), "crash", parts=stored_parts(parts))
            elif step.is_cancelled:
                ended = ReplyCancelled(reply_id, text_of(parts), "client", parts=stored_parts(parts))
            (last,) = await self.append(stream, ended)
        self.messages[stream][message_id] = [numbers_in(question.encode())]
        self.messages[stream][reply_id] = all_marks
        self.positions |= {ids[0]: (asked.position, "user", parent), ids[1]: (last.position, "assistant", message_id)}

    def parts(self, kinds: tuple[str, ...]) -> Parts:
        return tuple(self.part(kind) for kind in kinds)

    def part(self, kind: str) -> Text | Reasoning | ToolCall:
        if kind == "tool_call":
            return ToolCall("call", "f", self.mark())
        return Reasoning(self.mark()) if kind == "reasoning" else Text(self.mark())

    async def redact(self, stream: str, step: Redact) -> None:
        """As the service does it: wherever the message is."""
        shown = list(self.messages[stream])
        if not shown:
            return
        message_id = shown[step.message % len(shown)]
        marks = self.messages[stream][message_id]
        part = None if step.part is None else step.part % len(marks)
        for other, messages in self.messages.items():
            if message_id in messages:
                event = await redact(self.log, other, message_id, part)
                self.recorded.append((await self.log.read(other, limit=1, backwards=True))[0])
                assert isinstance(event, type(self.recorded[-1].event))
        self.gone |= set().union(*marks) if part is None else marks[part]

    async def fork(self, stream: str, *, copies: bool) -> None:
        origin = next((one for one in STREAMS if one != stream and self.messages.get(one)), None)
        if stream in self.messages or origin is None:
            return
        adopted = [
            AdoptedMessage(id_, self.positions[id_][2], self.positions[id_][1], "complete", self.positions[id_][0], 1)
            for id_ in self.messages[origin]
        ]
        await self.append(
            stream, created(None, Origin(origin, 1, adopted[-1].message_id)), HistoryAdopted(tuple(adopted))
        )
        self.messages[stream] = dict(self.messages[origin])
        if copies:
            texts = await self.log.read_at([one.position for one in adopted])
            for one in adopted:
                event = texts[one.position].event
                assert isinstance(event, MessagePosted | ReplyCompleted | ReplyCancelled | MessageCopied)
                copied = MessageCopied(one.message_id, one.role, event.content, parts=stored_parts(parts_of(event)))
                await self.append(stream, copied)

    async def delete(self, stream: str) -> None:
        """Not of one whose texts a fork reads."""
        if sum(bool(self.messages.get(one)) for one in STREAMS) > 1 or not self.messages.get(stream):
            return
        version = sum(one.stream_id == stream for one in self.recorded)
        self.recorded += await self.log.erase(stream, version, SessionDeleted(reason="x"), ASKED)
        self.gone |= {mark for marks in self.messages[stream].values() for mark in set().union(*marks)}
        self.messages[stream] = {}


def numbers_in(data: bytes) -> set[int]:
    return set(map(int, MARK.findall(data)))


async def check(world: Conversations) -> None:
    log, gone = world.log, world.gone
    verifier, fault = await verify(log)
    assert (fault, verifier.incomplete_erasures) == (None, [])
    now = await log.read_all(limit=ALL)
    assert not gone & numbers_in(encode(now))
    living = {
        mark for messages in world.messages.values() for marks in messages.values() for mark in set().union(*marks)
    }
    assert numbers_in(encode(now)) >= living - gone - attempts_of(world)
    await check_folds(world.recorded, now)
    for stream in {one.stream_id for one in now}:
        events = [one for one in now if one.stream_id == stream]
        for version in range(1, len(events) + 1):
            as_of = await load_conversation(log, stream, PointInTime(version=version))
            assert not gone & numbers_in(encode(as_of))
            for offset in (0, 5):
                cursor, sent = ReaderCursor(version, offset), []
                for one in events[version:]:
                    cursor, segments = advance(cursor, one)
                    sent += segments
                assert not gone & numbers_in(encode(sent))
        async for call in read_model_calls(log, stream):
            assert not gone & numbers_in(encode(call.messages))


def attempts_of(world: Conversations) -> set[int]:
    """Marks of attempts that were interrupted: redacted whole with any part of their message."""
    ended = [one.event for one in world.recorded if isinstance(one.event, ReplyInterrupted | ReplyProgressed)]
    return numbers_in(encode(ended))


async def check_folds(before: list[RecordedEvent], after: list[RecordedEvent]) -> None:
    """What was folded event by event, as each was recorded, and what a rebuild folds."""
    rows = [
        (one.session, one.inserts, one.updates, one.moves, one.calls, one.withdrawn)
        for one in fold(before, {}, b"key").sessions
    ]
    rebuilt = [
        (one.session, one.inserts, one.updates, one.moves, one.calls, one.withdrawn)
        for one in fold(after, {}, b"key").sessions
    ]
    assert rows == rebuilt
    for stream in {one.stream_id for one in before}:
        states = []
        for history in (before, after):
            state = None
            for one in history:
                if one.stream_id == stream:
                    state = sessions.evolve(state, one, RECENT_MAX, RECENT_MAX)
            states.append(state)
        assert states[0] == states[1]
        assert isinstance(states[0], sessions.State)
        assert isinstance(states[0].session, facts.Session)


@given(st.lists(steps, max_size=12))
@settings(max_examples=scaled(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_redacted_is_nowhere_and_all_else_is_as_it_was(history: list[Turn | Redact | Fork | Delete]) -> None:
    async def run(directory: Path) -> set[int]:
        log = await SqliteLog.open(directory / "log.db")
        world = Conversations(log)
        try:
            for step in history:
                await world.run(step)
            await check(world)
        finally:
            await log.close()
        return world.gone

    with tempfile.TemporaryDirectory() as name:
        gone = asyncio.run(run(Path(name)))
        files = b"".join(path.read_bytes() for path in Path(name).iterdir())
        assert not gone & numbers_in(files)
