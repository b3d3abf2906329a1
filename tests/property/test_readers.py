"""Readers of a session's feed: whatever happens to them, to the session and to the service, in whatever order."""

import asyncio
import copy
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct
from structlog.testing import capture_logs

from chatbot.llm.provider import Finish, LlmFailed
from chatbot.sessions.domain.commands import (
    Caller,
    CancelReply,
    ChangeMetadata,
    Command,
    CreateSession,
    DeleteSession,
    Expire,
    PostMessage,
    Regenerate,
    SelectBranch,
)
from chatbot.sessions.replies.growing_parts import Mark, PartKind, build_parts, flat_text
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Parameters, ReplyEnded, ReplyProgressed, ReplyStarted, Usage
from events.record import RecordedEvent
from events.schema.parts import Parts, Reasoning, parts_of
from tests.support.model.manual_provider import PartPiece
from tests.support.nightly import scaled
from tests.support.sessions.readers_harness import (
    FeedClient,
    FeedRequest,
    FrameSummary,
    ReaderSocket,
    ReceivedReply,
    expected_frames,
)
from tests.support.sessions.sessions_harness import CHECKPOINT_S, IDLE_S, PENDING_MAX, SessionsHarness, TimeTravelLoop

T = TypeVar("T")
MINA = Caller(owner="mina", request_id="r1")
FINISH = Finish("stop", "hand-model", Usage(1, 7, 8))
TIMEOUT_S = 1_000_000
READERS_MAX = 6

which = st.integers(0, 30)
odd = st.sampled_from('\U0001f600\U0001f468\u200d\U0001f469a\u0301\u1112\u1161\u11ab\u2028\r\n\x00\\"')
plain_texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), odd), min_size=1, max_size=8)
part_pieces = st.one_of(
    st.builds(PartPiece, st.sampled_from(["reasoning", "refusal"]), plain_texts),
    st.builds(lambda number, text: PartPiece("tool_call", text, f"call_{number}", "f"), st.integers(0, 3), plain_texts),
)
texts = st.one_of(plain_texts, plain_texts, part_pieces)


class Attempt(Struct):
    """One attempt at a reply: what the model wrote, the texts of all parts after each other, and what was recorded of
    that at its end. `parts` are the kind, call and name of each part, with where it begins.
    """

    reply_id: str
    version: int
    written: str = ""
    recorded: str | None = None
    parts: list[tuple[PartKind, str, str, int]] = []

    def write(self, piece: str) -> None:
        head: tuple[PartKind, str, str] = ("text", "", "")
        if isinstance(piece, PartPiece):
            head = piece.kind, piece.call_id, piece.name
        if not self.parts or self.parts[-1][:3] != head:
            self.parts.append((*head, len(self.written)))
        self.written += piece

    def written_parts(self, length: int) -> Parts:
        """The parts of the first `length` code points."""
        written = enumerate(self.parts)
        marks = [Mark(part, start, kind, id_, name) for part, (kind, id_, name, start) in written if start < length]
        return build_parts(self.written[:length], marks)


def without_durations(parts: Parts) -> Parts:
    return tuple(Reasoning(part.text) if isinstance(part, Reasoning) else part for part in parts)


class ReadersOfOneSession(RuleBasedStateMachine):
    """The truth: the log's events, and what the model was made to write. `here` are the readers, connected or away."""

    def __init__(self) -> None:
        super().__init__()
        self.asyncio = asyncio.Runner(loop_factory=TimeTravelLoop)
        self.folder = Path(tempfile.mkdtemp())
        self.ids = 0
        self.session_id = ""
        self.is_gone = True
        self.events: list[RecordedEvent] = []
        self.attempts: list[Attempt] = []
        self.replies: list[Reply] = []
        self.here: list[FeedRequest] = []
        self.open: list[FeedRequest] = []  # also those whose readers have left, until they notice
        self.later: list[FeedRequest] = []  # who come in at the very moment of the next command
        self.handed_out: list[FeedClient] = []  # as they were with each cursor that was ever handed out
        self.crashed = False
        self.erased: tuple[FeedClient, int] | None = None  # who was told of an event only after it was erased

    @initialize(retries=st.sampled_from([0, 1]))
    def start(self, retries: int) -> None:
        self.real = SessionsHarness(self.folder, retry_interrupted=retries)
        self.run(self.real.open())
        self.new_session()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with capture_logs():
            return self.asyncio.run(work)

    def teardown(self) -> None:
        async def end() -> None:
            try:
                await self.hang_up(self.open)
            finally:
                await self.real.close()

        try:
            self.run(end())
        finally:
            self.asyncio.close()
            shutil.rmtree(self.folder)

    # the small words that rules are made of

    def new_id(self, kind: str) -> str:
        self.ids += 1
        return f"{kind}{self.ids}"

    def pick(self, number: int) -> FeedRequest:
        return self.here[number % len(self.here)]

    @property
    def live(self) -> Reply | None:
        return self.real.supervisor.running_reply(self.session_id)

    def ask(self, *commands: Command) -> None:
        self.run(self.answers(*commands))

    async def answers(self, *commands: Command) -> None:
        await self.come_in()
        for command in commands:
            answer = await self.real.supervisor.ask(self.session_id, command, MINA)
            if answer.reply is not None:
                self.replies.append(answer.reply)
        await self.settle()

    async def come_in(self, *, bad_disk: bool = False) -> None:
        for connection in self.later:
            connection.open(bad_disk=bad_disk)
            self.open.append(connection)
        self.later.clear()

    async def hang_up(self, connections: list[FeedRequest], *, seen: bool = False) -> None:
        for connection in connections:
            connection.wire.cut(seen=seen)
            if connection.task is not None:
                connection.task.cancel()
        tasks = [connection.task for connection in connections if connection.task is not None]
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def is_settled(self) -> bool:
        """Whether nothing moves: what waits has its turn, what the model wrote is there, and no reader has news."""
        live = self.live
        if live is None:
            if self.real.supervisor.replies(self.session_id):
                return False
        else:
            calls = self.real.provider.calls
            written = "".join(one.written for one in self.attempts if one.version == live.version)
            if not calls or calls[-1].closed or live.text != written:
                return False
        for connection in self.open:
            if connection.task is not None and connection.task.done() and not connection.task.cancelled():
                connection.task.result()
        self.open = [connection for connection in self.open if connection.is_open]
        channel = self.real.ports.feeds._channels.get(self.session_id)
        listening = len(channel.signal.listeners) if channel else 0
        return listening + sum(connection.wire.is_stuck for connection in self.open) == len(self.open)

    async def settle(self) -> None:
        await self.real.until(self.is_settled, "all readers have what there is")
        await self.learn()

    async def learn(self) -> None:
        """Read what has been recorded since."""
        new = await self.real.log.read(self.session_id, after=len(self.events), limit=10_000)
        for one in new:
            event = one.event
            if isinstance(event, ReplyStarted):
                self.attempts.append(Attempt(event.reply_id, one.version))
            elif isinstance(event, ReplyEnded):
                mine = [attempt for attempt in self.attempts if attempt.reply_id == event.reply_id]
                if mine and mine[-1].recorded is None:
                    mine[-1].recorded = recorded = flat_text(parts_of(event))
                    assert mine[-1].written.startswith(recorded)
                    assert without_durations(event.parts) == mine[-1].written_parts(len(recorded))
                elif mine:  # a further attempt that ended before it began
                    self.attempts.append(Attempt(event.reply_id, one.version, recorded=event.content))
        self.events += new
        assert [one.version for one in self.events] == list(range(1, len(self.events) + 1))

    def open_attempt(self, version: int) -> Attempt | None:
        """The attempt that had started and not ended at `version`."""
        found: Attempt | None = None
        for one in self.events[:version]:
            if isinstance(one.event, ReplyStarted):
                found = next(attempt for attempt in self.attempts if attempt.version == one.version)
            elif isinstance(one.event, ReplyEnded) and found and one.event.reply_id == found.reply_id:
                found = None
        return found

    def recorded_at(self, version: int) -> dict[str, ReceivedReply]:
        """What a reader of the history had at `version` of the reply that was open."""
        attempt = self.open_attempt(version)
        if attempt is None:
            return {}
        since = [one.event for one in self.events[attempt.version : version]]
        return {attempt.reply_id: ReceivedReply("".join(e.text for e in since if isinstance(e, ReplyProgressed)))}

    # what people do

    @precondition(lambda self: self.is_gone)
    @rule()
    def new_session(self) -> None:
        """First those who are left are told that the old one is gone."""

        async def create() -> None:
            if self.session_id:
                await self.all_are_told_that_it_is_gone()
            self.session_id, self.is_gone = self.new_id("s"), False
            for kept in (self.events, self.attempts, self.replies, self.here, self.handed_out):
                kept.clear()
            self.crashed = False
            await self.answers(CreateSession("mina", {}, TIMEOUT_S, None, None))

        self.run(create())

    async def all_are_told_that_it_is_gone(self) -> None:
        for connection in self.here:
            connection.wire.release()
        await self.settle()
        for number in range(len(self.here)):
            self.back(number)
        await self.come_in()
        await self.settle()
        assert not self.open
        assert all(connection.wire.client.over for connection in self.here)
        assert self.real.ports.feeds.count == 0
        if self.erased is not None:
            client, version = self.erased
            assert version not in {one[1] for one in client.told}, "what is erased must not be told from memory"
            self.erased = None

    def can_ask(self) -> bool:
        """A session that was left open by a crash may have more waiting than it shows."""
        return not self.is_gone and len(self.real.supervisor.replies(self.session_id)) <= PENDING_MAX

    @precondition(lambda self: self.can_ask())
    @rule(pushing=st.sampled_from([False, False, True]), times=st.sampled_from([1, 1, 2]))
    def post(self, pushing: bool, times: int) -> None:
        """`pushing`: what runs is cancelled first."""
        if not pushing and len(self.real.supervisor.replies(self.session_id)) + times > PENDING_MAX:
            return
        on_busy = "interrupt" if pushing else "queue"
        for _ in range(times):
            if not self.can_ask():  # the first has shown what a crash left waiting
                return
            said = self.new_id("m")
            self.ask(PostMessage(said, self.new_id("r"), f"words of {said}", Parameters(), on_busy=on_busy))

    @precondition(lambda self: self.can_ask())
    @rule(pieces=st.lists(texts, min_size=1, max_size=2), waiting=st.integers(0, 2))
    def be_busy(self, pieces: list[str], waiting: int) -> None:
        """With a reply that has some text, and others that wait."""
        self.have_one_running()
        if self.live is not None:
            self.the_model_goes_on(pieces)
            self.post(pushing=False, times=waiting)

    def have_one_running(self) -> None:
        if self.live is None:
            self.post(pushing=False, times=1)

    @precondition(lambda self: self.can_ask() and any(one.type == "message_posted" for one in self.events))
    @rule(pushing=st.booleans())
    def regenerate(self, pushing: bool) -> None:
        if pushing or len(self.real.supervisor.replies(self.session_id)) < PENDING_MAX:
            self.ask(Regenerate(self.new_id("r"), None, Parameters(), "interrupt" if pushing else "queue"))

    @precondition(lambda self: self.can_ask())
    @rule(text=st.one_of(st.just(""), texts))
    def cancel(self, text: str) -> None:
        """In the midst of what the model has to say."""
        if text:
            self.give(text)
        self.ask(CancelReply())

    @precondition(lambda self: self.can_ask())
    @rule(number=which)
    def change(self, number: int) -> None:
        self.ask(ChangeMetadata({"n": self.new_id("v")}, f"title {number}"))

    @precondition(lambda self: self.can_ask() and any(one.type == "message_posted" for one in self.events))
    @rule(number=which)
    def select_branch(self, number: int) -> None:
        posted = [one.event for one in self.events if one.type == "message_posted"]
        chosen: Any = posted[number % len(posted)]
        self.ask(SelectBranch(chosen.message_id))

    @precondition(lambda self: self.can_ask() and len(self.events) > 8)
    @rule(number=which, deleting=st.booleans(), behind=st.sampled_from(["nobody", "stuck", "away", "back"]))
    def goes(self, number: int, deleting: bool, behind: str) -> None:
        """With or without a reader who has not taken all that happened before."""
        if self.here and behind != "nobody":
            self.fall_behind_the_end(number, behind, deleting=deleting)
        if deleting:
            self.ask(DeleteSession())
        else:
            self.ask(CancelReply())
            while self.real.supervisor.replies(self.session_id):
                self.ask(CancelReply())
            self.real.now_us += (TIMEOUT_S + 1) * 1_000_000
            self.ask(Expire())
        self.is_gone = True
        assert self.events[-1].type == ("session_deleted" if deleting else "session_expired")
        if behind != "nobody":
            self.run(self.all_are_told_that_it_is_gone())

    def fall_behind_the_end(self, number: int, behind: str, *, deleting: bool) -> None:
        """Stuck, on its way back, or back and stuck, with something to take that is about to be erased."""
        if behind == "stuck":
            self.hold(number)
        else:
            self.drop(number, noticed=True, seen=False)
        self.change(number)
        self.change(number)
        if behind != "stuck":
            self.back(number)
        connection = self.pick(number)
        if behind == "back":
            connection.wire.hold()
            self.ask()
        if deleting and connection.wire.is_stuck:
            self.erased = (connection.wire.client, len(self.events))

    # what the model server does

    def give(self, *given: Any) -> None:
        """To the running reply, which has not taken it yet when this returns."""
        if self.live is not None:
            for one in given:
                self.real.provider.calls[-1].given.put_nowait(one)
                if isinstance(one, str):
                    self.attempts[-1].write(one)

    @precondition(lambda self: not self.is_gone and self.live)
    @rule(pieces=st.lists(texts, min_size=1, max_size=4), pause=st.integers(0, 6))
    def the_model_goes_on(self, pieces: list[str], pause: int = 0) -> None:
        """`pause`: turns of the event loop between its pieces."""

        async def say() -> None:
            for piece in pieces:
                self.give(piece)
                for _ in range(pause):
                    await asyncio.sleep(0)
            await self.answers()

        self.run(say())

    @precondition(lambda self: not self.is_gone and self.live)
    @rule(last=st.lists(texts, max_size=2), ending=st.sampled_from([FINISH, FINISH, LlmFailed()]))
    def the_model_ends(self, last: list[str], ending: Finish | LlmFailed) -> None:
        live, attempt = self.live, self.attempts[-1]
        assert live
        self.give(*last, ending)

        async def end() -> None:
            await self.come_in()
            outcome = await live.wait_end()
            assert flat_text(parts_of(outcome)) == attempt.written
            await self.settle()

        self.run(end())
        assert attempt.recorded == attempt.written

    @precondition(lambda self: self.can_ask())
    @rule(pieces=st.lists(texts, min_size=1, max_size=4))
    def a_whole_turn(self, pieces: list[str]) -> None:
        """Each piece is on record before the next."""
        self.have_one_running()
        for piece in pieces:
            self.the_model_goes_on([piece])
            self.a_while_passes(idle=False)
        self.the_model_ends([], FINISH)

    # what time, the disk and the machine do

    @rule(idle=st.sampled_from([False, False, True]))
    def a_while_passes(self, idle: bool) -> None:
        """A checkpoint is taken; after a long while an idle actor leaves memory."""

        async def skip() -> None:
            await self.answers()
            attempt = self.attempts[-1] if self.live else None
            (held,) = self.recorded_at(len(self.events)).values() if attempt else (ReceivedReply(),)
            due = attempt is not None and held.text != attempt.written
            expected = self.real.log.head().position + due
            self.real.skip(IDLE_S + 1 if idle else CHECKPOINT_S + 1)
            await self.real.until(lambda: self.real.log.head().position >= expected, "the checkpoint is taken")
            if idle:
                busy = bool(self.real.supervisor.replies(self.session_id))
                await self.real.until(lambda: self.real.seen.live == busy, "only a busy actor is left")
            await self.settle()

        self.run(skip())

    @rule(minutes=st.sampled_from([1, 3]))
    def the_clock_goes_on(self, minutes: int) -> None:
        """The next to come in is an access on record."""
        self.real.now_us += minutes * 60_000_000

    @rule(crash=st.booleans(), empty=st.booleans(), eager=st.booleans(), seen=st.booleans(), back=st.booleans())
    def start_again(self, crash: bool, empty: bool, eager: bool, seen: bool, back: bool) -> None:
        """`eager`: what a crash left open is closed at once, else when the session is next asked for something.

        `back`: those who were there are back before that.
        """
        self.run(self.crash(seen=seen) if crash else self.stop(seen=seen))
        self.open.clear()
        if empty:
            self.real.forget_projections()
        self.run(self.real.open())
        self.crashed = self.crashed or crash
        if back:
            for number in range(len(self.here)):
                self.back(number)
        self.run(self.opened(eager=eager or not crash))

    @precondition(lambda self: self.can_ask())
    @rule(
        number=which,
        pieces=st.lists(texts, max_size=2),
        lost=texts,
        leaving=st.sampled_from(["nobody", "before", "after"]),
        empty=st.booleans(),
        eager=st.booleans(),
        back=st.booleans(),
    )
    def crash_in_the_midst(
        self, *, number: int, pieces: list[str], lost: str, leaving: str, empty: bool, eager: bool, back: bool
    ) -> None:
        """Under a reply whose readers have more of it than the log."""
        self.have_one_running()
        if self.here and leaving == "before":
            self.drop(number, noticed=True, seen=True)
        for piece in pieces:
            self.the_model_goes_on([piece])
            self.a_while_passes(idle=False)
        self.the_model_goes_on([lost])
        if self.here and leaving == "after":
            self.drop(number, noticed=True, seen=True)
        self.start_again(crash=True, empty=empty, eager=eager, seen=True, back=back)

    async def opened(self, *, eager: bool) -> None:
        if self.later:
            await self.come_in()
            await self.settle()
        if eager:
            await self.real.supervisor.recover()
        await self.settle()

    async def crash(self, *, seen: bool) -> None:
        for connection in self.open:
            connection.wire.cut(seen=seen)
        await self.real.crash()
        await self.hang_up(self.open)

    async def stop(self, *, seen: bool) -> None:
        """As run.py does it, with no grace for replies nor for readers that take nothing."""
        await self.come_in()
        await self.settle()
        still = [one for one in self.open if not one.wire.is_stuck and not one.wire.is_cut]
        await self.real.supervisor.drain(0)
        self.real.ports.feeds.close()
        await self.real.until(lambda: all(not one.is_open or one.wire.is_stuck for one in self.open), "they are told")
        assert all(one.wire.client.draining or one.wire.client.over for one in still if not one.is_open)
        await self.hang_up(self.open, seen=seen)
        assert self.real.ports.feeds.count == 0
        await self.real.close()

    # what readers do

    def connect(self, client: FeedClient, *, early: bool, at_once: bool = True) -> FeedRequest:
        """Not `at_once`: while the session deals with its next command."""
        client.draining = False
        wire = ReaderSocket(client, self.handed_out, early=early)
        connection = FeedRequest(self.real, self.session_id, wire, MINA)
        self.later.append(connection)
        if at_once:
            self.ask()
        return connection

    @precondition(lambda self: not self.is_gone and len(self.here) < READERS_MAX)
    @rule(
        how=st.sampled_from(["now", "snapshot", "snapshot", "version", "handed out", "handed out", "beginning"]),
        number=st.integers(0, 10_000),
        early=st.booleans(),
        at_once=st.booleans(),
    )
    def join(self, how: str, number: int, early: bool, at_once: bool) -> None:
        if how == "snapshot":
            client = self.run(self.snapshot())
        elif how == "version":
            version = len(self.events) - (number % len(self.events) if number % 2 else 0)
            client = FeedClient(str(version), self.recorded_at(version))
        elif how == "handed out" and self.handed_out:
            client = copy.deepcopy(self.handed_out[number % len(self.handed_out)])
        elif how == "beginning":
            client = FeedClient("0:0")
        else:
            client = FeedClient()
        self.here.append(self.connect(client, early=early, at_once=at_once))

    @precondition(lambda self: self.can_ask() and len(self.here) < READERS_MAX)
    @rule(how=st.sampled_from(["now", "snapshot", "version"]), pieces=st.lists(texts, min_size=2, max_size=2))
    def join_in_the_midst(self, how: str, pieces: list[str]) -> None:
        """Of a reply, some of which is on record."""
        self.have_one_running()
        self.the_model_goes_on(pieces[:1])
        self.a_while_passes(idle=False)
        self.the_model_goes_on(pieces[1:])
        self.join(how, 0, early=False, at_once=True)
        if self.live is not None and how == "now":
            assert self.here[-1].wire.client.missed == len(self.attempts[-1].written)

    async def look(self) -> None:
        """Read the session, so that whatever a crash left open is closed or begun, on the record."""
        await self.real.reader.session(self.session_id, MINA)
        await self.settle()

    async def snapshot(self) -> FeedClient:
        """As a page does that shows the messages and then follows."""
        await self.real.reader.session(self.session_id, MINA)
        history = await self.real.reader.history(self.session_id, None, 1000, None)
        held: dict[str, ReceivedReply] = {}
        for one in history.messages:
            if one.row.role == "assistant" and one.row.status != "queued":
                ended, may_restart = one.row.status != "streaming", one.row.status == "interrupted"
                text = flat_text(parts_of(one))
                held[one.row.message_id] = ReceivedReply(text, ended=ended, may_restart=may_restart)
        return FeedClient(f"{history.session.version}:{history.offset}", held, missed=history.offset)

    @precondition(lambda self: not self.is_gone and len(self.here) < READERS_MAX)
    @rule(ahead=st.integers(1, 9), offset=st.integers(0, 5))
    def join_from_nowhere(self, ahead: int, offset: int) -> None:
        """The log has no such version: the reader is told so, and goes on from now."""
        self.run(self.look())
        client = FeedClient(f"{len(self.events) + 2 + ahead}:{offset}")
        self.here.append(self.connect(client, early=False))
        assert client.resyncs == 1

    @precondition(lambda self: self.here)
    @rule(number=which)
    def hold(self, number: int) -> None:
        self.pick(number).wire.hold()

    @precondition(lambda self: self.here and self.can_ask())
    @rule(number=which, pieces=st.lists(texts, min_size=3, max_size=3), ends=st.booleans())
    def fall_behind(self, number: int, pieces: list[str], ends: bool) -> None:
        """One frame is on its way while more is written, perhaps to the end, and more happens; then all is taken."""
        self.have_one_running()
        if self.live is None:
            return
        self.the_model_goes_on(pieces[:1])
        self.hold(number)
        self.the_model_goes_on(pieces[1:2])
        self.the_model_goes_on(pieces[2:])
        if ends:
            self.the_model_ends([], FINISH)
        self.change(number)
        self.release(number)

    @precondition(lambda self: self.here)
    @rule(number=which)
    def release(self, number: int) -> None:
        self.pick(number).wire.release()

    @precondition(lambda self: self.here)
    @rule(number=which, noticed=st.booleans(), seen=st.booleans())
    def drop(self, number: int, noticed: bool, seen: bool) -> None:
        """Not `noticed`: the service finds out when it next writes. `seen`: the frame on its way has arrived."""
        connection = self.pick(number)
        if noticed:
            self.run(self.hang_up([connection], seen=seen))
        else:
            connection.wire.cut(seen=seen)

    @precondition(lambda self: self.here)
    @rule(number=which, early=st.booleans(), at_once=st.booleans())
    def come_back(self, number: int, early: bool, at_once: bool) -> None:
        self.back(number, early=early)
        if at_once:
            self.ask()

    @precondition(lambda self: self.here and self.can_ask())
    @rule(number=which, pieces=st.lists(texts, min_size=2, max_size=3), closed=st.booleans(), early=st.booleans())
    def miss_something(self, number: int, pieces: list[str], closed: bool, early: bool) -> None:
        """And come back, first perhaps to a disk that cannot be read: then the feed ends, and nothing is lost."""
        self.have_one_running()
        self.the_model_goes_on(pieces[:1])
        self.drop(number, noticed=True, seen=False)
        for piece in pieces[1:]:
            self.the_model_goes_on([piece])
            self.a_while_passes(idle=False)
        self.change(number)
        if closed:
            self.ask()
            self.back(number)
            self.run(self.come_in(bad_disk=True))
            self.ask()
            self.drop(number, noticed=True, seen=False)  # one who needed nothing from the disk has stayed
        self.come_back(number, early=early, at_once=True)

    @precondition(lambda self: self.here and self.can_ask())
    @rule(number=which)
    def all_leave_and_come_back(self, number: int) -> None:
        """One after the other, while more and more happens."""
        for place in range(len(self.here)):
            self.drop(place, noticed=True, seen=False)
        for place in range(len(self.here)):
            self.change(number)
            self.back(place)
            self.ask()

    def back(self, number: int, *, early: bool = False) -> None:
        place = number % len(self.here)
        before = self.here[place]
        if before.wire.client.over or before in self.later or (before.is_open and not before.wire.is_cut):
            return
        client = before.wire.client if before.wire.client.cursor is not None else FeedClient()
        self.here[place] = self.connect(client, early=early, at_once=False)

    # what is true at all times

    @invariant()
    def every_reader_has_what_it_should(self) -> None:
        if self.session_id:
            self.run(self.check())

    async def check(self) -> None:
        await self.settle()
        told = expected_frames(self.events)
        for connection in self.here:
            client = connection.wire.client
            if told[-1][0] != "deleted":  # of what ends with its session, some is erased before it can be learnt here
                self.check_texts(client)
            expected = [one for one in told if client.origin is not None and one[1] > client.origin]
            if client.told and client.told[-1][0] == "deleted":  # what was erased before it could be told is not told
                assert client.told[-1] == expected[-1]
                self.check_told(client.told[:-1], expected)
            elif connection.is_open and not connection.wire.is_stuck and not connection.wire.is_cut:
                assert client.told == expected
                self.check_is_up_to_date(client)
            else:
                self.check_told(client.told, expected)
        self.check_memory()

    def check_told(self, told: list[FrameSummary], expected: list[FrameSummary]) -> None:
        """So far. An end that was erased with its session tells no longer which reply's it was."""
        begun = expected[: len(told)]
        assert [one[:2] for one in told] == [one[:2] for one in begun]
        assert all(one == other for one, other in zip(told, begun, strict=True) if other[2] is not None)

    def check_texts(self, client: FeedClient) -> None:
        """No reader has a character that was not written, none twice, and after the end just what is recorded."""
        version = client.at()[0]
        for reply_id, held in client.held.items():
            attempts = [one for one in self.attempts if one.reply_id == reply_id and one.version <= version]
            if not attempts:
                assert not held.text
                continue
            attempt = attempts[-1]
            self.check_parts(held, attempt)
            if held.ended and attempt.recorded is not None:
                assert held.text == attempt.recorded[held.missed :]
            else:
                assert held.text == attempt.written[held.missed :][: len(held.text)]
        assert not client.cuts or self.crashed
        assert all(cut.startswith("interrupted ") for cut in client.cuts)

    def check_parts(self, held: ReceivedReply, attempt: Attempt) -> None:
        """Each stretch that the reader was sent is of the part that the model wrote there."""
        ends = [*(start for *_, start in attempt.parts[1:]), len(attempt.written)]
        for span in held.spans:
            *head, start = attempt.parts[span.part]
            assert [span.kind, span.call_id, span.name] == head
            assert start <= span.begin <= span.end <= ends[span.part]

    def check_is_up_to_date(self, client: FeedClient) -> None:
        if self.live is not None:
            attempt = self.attempts[-1]
            held = client.held.get(attempt.reply_id)
            if held is None:
                assert len(attempt.written) == client.missed
            else:
                assert held.text == attempt.written[held.missed :]

    def check_memory(self) -> None:
        """Readers hold no queues, and who has left has left nothing."""
        feeds = self.real.ports.feeds
        assert feeds.count == len(self.open)
        assert set(feeds._channels) == ({self.session_id} if self.open else set())
        for connection in self.open:
            connection.check_memory()
        listening = sum(not connection.wire.is_stuck for connection in self.open)
        live = self.live
        if live is not None:
            self.replies.append(live)
            assert len(live.signal.listeners) <= listening
        for reply in self.replies:
            assert reply is live or not reply.version or not reply.outcome or not reply.signal.listeners


ReadersOfOneSession.TestCase.settings = settings(
    max_examples=scaled(60),
    stateful_step_count=40,
    deadline=None,  # the disk decides how long an fsync takes
    suppress_health_check=[HealthCheck.too_slow],
)
TestReadersOfOneSession = pytest.mark.timeout(scaled(600))(ReadersOfOneSession.TestCase)
