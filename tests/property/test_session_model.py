"""Sessions against a model of them: whatever people, the model server, the disk and the clock do, in whatever order."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import UNSET, UnsetType
from structlog.testing import capture_logs

from chatbot.llm.provider import Finish, LlmFailed
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    Caller,
    CancelReply,
    ChangeMetadata,
    Command,
    CreateSession,
    DeleteSession,
    PostMessage,
    RecordAccess,
)
from chatbot.sessions.expiry_timer import ExpiryTimer
from events.catalogue import MessagePosted, Parameters, ReplyRequested, Usage
from events.errors import LogUnavailable
from events.integrity.chain_verifier import verify
from tests.support.model.manual_provider import ProviderCall
from tests.support.nightly import scaled
from tests.support.sessions.session_model import OPEN, MessageModel, SessionModel
from tests.support.sessions.sessions_harness import (
    ACCESS_US,
    CHECKPOINT_S,
    CONTEXT_MAX,
    IDLE_S,
    PENDING_MAX,
    SessionsHarness,
    TimeTravelLoop,
)

T = TypeVar("T")
MINA, JUN = Caller(owner="mina", request_id="r1"), Caller(owner="jun", request_id="r2")
ENDINGS = ("reply_completed", "reply_failed", "reply_cancelled", "reply_interrupted")
GONE: dict[str, type[rejections.Rejection]] = {
    "deleted": rejections.SessionDeleted,
    "expired": rejections.SessionExpired,
}
HOUR_US = 3_600_000_000
TOKENS = 7
FINISH = Finish("stop", "hand-model", Usage(1, TOKENS, 1 + TOKENS))

which = st.integers(0, 9)
texts = st.text(min_size=1, max_size=12)
metadata = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([None, 1, "x"]), max_size=2)


class SessionsAgainstModel(RuleBasedStateMachine):
    """The model: `talks`, each of which says what its session should be. Rules pick one by number."""

    def __init__(self) -> None:
        super().__init__()
        self.asyncio = asyncio.Runner(loop_factory=TimeTravelLoop)
        self.folder = Path(tempfile.mkdtemp())
        self.talks: dict[str, SessionModel] = {}
        self.ids = 0
        self.real = SessionsHarness(self.folder)
        self.run(self.real.open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with capture_logs():
            return self.asyncio.run(work)

    def teardown(self) -> None:
        self.run(self.real.close())
        self.asyncio.close()
        shutil.rmtree(self.folder)

    # the small words that rules are made of

    def new_id(self, kind: str) -> str:
        self.ids += 1
        return f"{kind}{self.ids}"

    def pick(self, number: int) -> SessionModel:
        """Mostly one that is alive: the others only refuse."""
        alive = [talk for talk in self.talks.values() if talk.status == "active"]
        talks = alive if alive and number < 8 else list(self.talks.values())
        return talks[number % len(talks)]

    def pick_running(self, number: int) -> tuple[SessionModel, MessageModel]:
        running = [(talk, talk.running) for talk in self.talks.values() if talk.running]
        return running[number % len(running)]

    def ask(
        self, talk: SessionModel, command: Command, if_version: int | None = None, caller: Caller = MINA
    ) -> CommandResult:
        answer = self.run(
            self.real.supervisor.ask(
                talk.session_id, command, caller, if_versions=None if if_version is None else frozenset({if_version})
            )
        )
        self.settle()
        assert answer.state.session.version <= talk.version or not talk.owed
        return answer

    @contextmanager
    def refused(self, error: type[Exception]) -> Iterator[None]:
        with pytest.raises(error) as caught:
            yield
        assert type(caught.value) is error
        self.settle()

    def gone(self, talk: SessionModel) -> type[rejections.Rejection] | None:
        """Why the session answers nothing any more, if so; one whose time has come is then expired."""
        if talk.is_due(self.real.now_us):
            talk.expire()
        return GONE.get(talk.status)

    def settle(self) -> None:
        """Wait until the log has as many events as the model says."""
        expected = sum(talk.version for talk in self.talks.values())
        head = self.real.log.head
        self.run(self.real.until(lambda: head().position >= expected, f"the log has {expected} events"))
        assert head().position == expected
        for talk in self.talks.values():
            if talk.running:
                self.check_call(talk, talk.running)

    def check_call(self, talk: SessionModel, reply: MessageModel) -> ProviderCall:
        """The request for the running reply, which asks just what it should."""
        assert reply.parent_id
        self.run(self.real.until(lambda: self.real.provider.call_for(reply.seed) is not None, "the model is asked"))
        call = self.real.provider.call_for(reply.seed)
        assert call is not None
        assert not call.closed
        assert [(message.role, message.content) for message in call.messages] == reply.asked
        return call

    def give(self, talk: SessionModel, reply: MessageModel, given: Any) -> None:
        self.check_call(talk, reply).given.put_nowait(given)

    # what people do

    @initialize()
    def first(self) -> None:
        self.create({"a": 1}, 1)

    @precondition(lambda self: sum(talk.status == "active" for talk in self.talks.values()) < 2)
    @rule(given=metadata, hours=st.integers(1, 3))
    def create(self, given: dict[str, Any], hours: int) -> None:
        talk = SessionModel(self.new_id("s"), hours * HOUR_US, CONTEXT_MAX, self.real.now_us, given)
        command = CreateSession("mina", given, hours * 3600, None, None)
        self.talks[talk.session_id] = talk
        answer = self.ask(talk, command)
        assert (answer.state.session.version, answer.state.metadata) == (1, given)

    @rule(number=which, parent=st.integers(-12, 3), on_busy=st.sampled_from(["queue", "queue", "reject", "interrupt"]))
    def post(self, number: int, parent: int, on_busy: str) -> None:
        """`parent`: below zero after the newest message, else from the start or after one of the messages."""
        talk = self.pick(number)
        parents = [None, *talk.lines]
        parent_id: str | UnsetType | None = UNSET if parent < 0 else parents[parent % len(parents)]
        command = self.message(parent_id, on_busy)
        gone = self.gone(talk)
        if gone is not None:
            with self.refused(gone):
                self.ask(talk, command)
        elif isinstance(parent_id, str) and talk.lines[parent_id].role == "user":
            with self.refused(rejections.ParentUnanswered):
                self.ask(talk, command)
        elif talk.owed and on_busy == "reject":
            with self.refused(rejections.SessionBusy):
                self.ask(talk, command)
        elif len(talk.owed) > PENDING_MAX and on_busy == "queue":
            with self.refused(rejections.TooManyPending):
                self.ask(talk, command)
        else:
            ended = list(talk.owed) if on_busy == "interrupt" else []
            if ended:
                talk.end_all("cancelled", self.real.now_us)
            self.posted(talk, command)
            self.have_ended(ended)

    def message(self, parent_id: str | UnsetType | None, on_busy: str = "queue") -> PostMessage:
        message_id = self.new_id("m")
        words, reply_id = f"words of {message_id}", self.new_id("r")
        parameters = Parameters(seed=self.ids)
        return PostMessage(message_id, reply_id, words, parameters, parent_id=parent_id, on_busy=on_busy)

    def posted(self, talk: SessionModel, command: PostMessage, if_version: int | None = None) -> None:
        parent_id = talk.head if command.parent_id is UNSET else command.parent_id
        message = MessageModel(command.message_id, parent_id, "user", command.content)
        reply = MessageModel(
            command.reply_id, command.message_id, "assistant", "", "queued", seed=command.parameters.seed
        )
        talk.post(message, reply, self.real.now_us)
        started = reply.status == "streaming"
        reply.live = self.ask(talk, command, if_version).reply
        assert reply.live is not None
        assert (reply.live.message_id, reply.live.reply_id) == (command.message_id, command.reply_id)
        assert bool(reply.live.version) == started

    def have_ended(self, replies: list[MessageModel]) -> None:
        """Those who waited for them know, and the model works on none of them."""
        for reply in replies:
            assert reply.live
            outcome = self.run(reply.live.wait_end())
            assert (outcome.status, outcome.content) == (reply.status, reply.content)

    @rule(number=which, text=texts)
    def a_whole_turn(self, number: int, text: str) -> None:
        talk = self.pick(number)
        if self.can_post(talk):
            command = self.message(UNSET)
            self.posted(talk, command, if_version=talk.version)
            if talk.running is talk.lines[command.reply_id]:
                self.grow(talk, talk.running, text)
                self.ends(talk, talk.running, FINISH, refusing=False)

    def can_post(self, talk: SessionModel) -> bool:
        return talk.status == "active" and not talk.is_due(self.real.now_us) and len(talk.owed) <= PENDING_MAX

    @rule(number=which, why=st.sampled_from(["wrong version", "unknown message", "a stranger", "full disk"]))
    def nothing_changes_for(self, number: int, why: str) -> None:
        talk = self.pick(number)
        if why == "a stranger" and talk.status != "deleted":
            pushing = self.message(UNSET, "interrupt")
            for command in (RecordAccess(), CancelReply(), pushing, ChangeMetadata({"a": "jun"}), DeleteSession()):
                with self.refused(rejections.SessionNotFound):
                    self.ask(talk, command, caller=JUN)
        elif self.can_post(talk) and why == "wrong version":
            for version in (talk.version - 1, talk.version + 1):
                for on_busy in ("queue", "interrupt"):
                    with self.refused(rejections.VersionMismatch):
                        self.ask(talk, self.message(UNSET, on_busy), if_version=version)
        elif self.can_post(talk) and why == "unknown message":
            with self.refused(rejections.UnknownMessage):
                self.ask(talk, self.message("nowhere"))
        elif self.can_post(talk) and why == "full disk":
            self.real.log.refusing = True
            for command in (self.message(UNSET), ChangeMetadata({"new": self.ids})):
                with self.refused(LogUnavailable):
                    self.ask(talk, command)
            self.real.log.refusing = False

    @rule(number=which, refusing=st.booleans())
    def cancel(self, number: int, refusing: bool) -> None:
        talk = self.pick(number)
        gone, running = self.gone(talk), talk.running
        if gone is not None:
            with self.refused(gone):
                self.ask(talk, CancelReply())
        elif running is None:
            assert self.ask(talk, CancelReply()).reply is None
        else:
            call = self.check_call(talk, running)
            if refusing:
                self.cancel_on_a_full_disk(talk, running)
            talk.end(running, "cancelled", self.real.now_us)
            talk.start_next()
            answer = None if refusing else self.ask(talk, CancelReply())
            assert answer is None or answer.reply is running.live
            self.settle()
            assert call.closed
            self.have_ended([running])

    def cancel_on_a_full_disk(self, talk: SessionModel, reply: MessageModel) -> None:
        """It is refused, and comes about when there is room."""
        self.real.log.refusing = True
        with pytest.raises(LogUnavailable):
            self.run(self.real.supervisor.ask(talk.session_id, CancelReply(), MINA))
        self.real.log.refusing = False
        self.time_passes(CHECKPOINT_S + 1, ended=reply)

    @rule(number=which, given=metadata, title=st.sampled_from([UNSET, None, "t"]), offset=st.sampled_from([None, 0, 1]))
    def change(self, number: int, given: dict[str, Any], title: str | UnsetType | None, offset: int | None) -> None:
        talk = self.pick(number)
        command = ChangeMetadata(given, title)
        if_version = None if offset is None else talk.version + offset
        if offset:
            with self.refused(GONE.get(talk.status, rejections.VersionMismatch)):
                self.ask(talk, command, if_version=if_version)
            return
        gone = self.gone(talk)
        if gone is not None:
            with self.refused(gone):
                self.ask(talk, command, if_version=if_version)
            return
        merged = {key: value for key, value in {**talk.metadata, **given}.items() if value is not None}
        wanted = talk.title if title is UNSET else title
        if (merged, wanted) != (talk.metadata, talk.title):
            talk.metadata, talk.title = merged, wanted
            talk.version += 1
            talk.accessed_us = self.real.now_us
        answer = self.ask(talk, command, if_version=if_version)
        assert (answer.state.metadata, answer.state.title) == (merged, wanted)

    @rule(number=which)
    def delete(self, number: int) -> None:
        talk = self.pick(number)
        if talk.status == "deleted":
            with self.refused(rejections.SessionDeleted):
                self.ask(talk, DeleteSession())
            return
        owed = list(talk.owed)
        talk.delete(self.real.now_us)
        self.ask(talk, DeleteSession())
        self.have_ended(owed)

    @rule(number=which)
    def read(self, number: int) -> None:
        talk = self.pick(number)
        if talk.status == "deleted":
            with self.refused(rejections.SessionDeleted):
                self.run(self.real.reader.session(talk.session_id, MINA))
            return
        gone = self.gone(talk)
        if gone is not None:
            with self.refused(gone):
                self.run(self.real.reader.session(talk.session_id, MINA))
            return
        if self.real.now_us - talk.accessed_us >= ACCESS_US:
            talk.accessed_us = self.real.now_us
            talk.version += 1
        session = self.run(self.real.reader.session(talk.session_id, MINA))
        self.settle()
        assert (session.version, session.head) == (talk.version, talk.head)
        (described,) = self.run(self.real.reader.with_metadata([session]))
        assert (described.metadata, described.title) == (talk.metadata, talk.title)

    # what the model server does

    @precondition(lambda self: any(talk.running for talk in self.talks.values()))
    @rule(number=which, text=texts)
    def the_model_goes_on(self, number: int, text: str) -> None:
        self.grow(*self.pick_running(number), text)

    @precondition(lambda self: any(talk.running for talk in self.talks.values()))
    @rule(number=which, ending=st.sampled_from(["finish", "finish", "fail"]), refusing=st.booleans())
    def the_model_ends(self, number: int, ending: str, refusing: bool) -> None:
        self.ends(*self.pick_running(number), FINISH if ending == "finish" else LlmFailed(), refusing=refusing)

    def grow(self, talk: SessionModel, reply: MessageModel, text: str) -> None:
        live = reply.live
        assert live
        self.give(talk, reply, text)
        reply.content += text
        self.run(self.real.until(lambda: live.text == reply.content, "the text has grown"))

    def ends(self, talk: SessionModel, reply: MessageModel, given: Finish | LlmFailed, *, refusing: bool) -> None:
        """With `refusing` the disk is full at that moment: the end is recorded once there is room."""
        live = reply.live
        assert live
        self.real.log.refusing = refusing
        self.give(talk, reply, given)
        if refusing:
            with pytest.raises(LogUnavailable):
                self.run(live.wait_end())
            self.real.log.refusing = False
            self.time_passes(CHECKPOINT_S + 1, ended=reply)
        talk.tokens += TOKENS if isinstance(given, Finish) else 0
        is_complete = isinstance(given, Finish) and bool(reply.content)  # a reply of nothing at all has failed
        talk.end(reply, "complete" if is_complete else "failed", self.real.now_us)
        talk.start_next()
        self.settle()
        self.have_ended([reply])

    # what time, the disk and the machine do

    def time_passes(self, seconds: float, ended: MessageModel | None = None) -> None:
        """More than a checkpoint's interval: what the log lacks of each running reply is recorded."""

        async def skip() -> None:
            self.real.skip(seconds)

        for talk in self.talks.values():
            if talk.running is not ended:
                talk.checkpoint()
        self.run(skip())

    @rule(idle=st.booleans())
    def a_while_passes(self, idle: bool) -> None:
        """Checkpoints are taken; a long while, and idle actors leave memory."""
        self.time_passes(IDLE_S + 1 if idle else CHECKPOINT_S + 1)
        self.settle()
        busy = sum(bool(talk.owed) for talk in self.talks.values())
        if idle:
            self.run(self.real.until(lambda: self.real.seen.live == busy, "only busy actors are left"))

    @rule(minutes=st.sampled_from([1, 2, 30, 70]))
    def the_clock_goes_on(self, minutes: int) -> None:
        self.real.now_us += minutes * 60_000_000

    @rule()
    def the_expiry_timer_rings(self) -> None:
        self.time_passes(CHECKPOINT_S + 1)
        self.settle()
        for talk in self.talks.values():
            if talk.is_due(self.real.now_us):
                talk.expire()

        async def ring() -> None:
            timer = asyncio.create_task(ExpiryTimer(self.real.ports, self.real.supervisor.ask).run())
            expected = sum(talk.version for talk in self.talks.values())

            def rung() -> bool:
                self.real.skip(61)
                return self.real.log.head().position >= expected and not timer.done()

            await self.real.until(rung, "all that are due have expired")
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)

        self.run(ring())
        self.settle()

    @rule(number=which, empty=st.booleans(), eager=st.booleans())
    def crash_in_the_midst(self, number: int, empty: bool, eager: bool) -> None:
        """Under a reply with some checkpoints behind it, more text after the last, and a message that waits."""
        talk = self.pick(number)
        if not self.can_post(talk):
            return
        self.posted(talk, self.message(UNSET))
        for text in ("kept ", "in ", "the ", "log "):
            if talk.running:
                self.grow(talk, talk.running, text)
                self.a_while_passes(idle=False)
        if talk.running:
            self.grow(talk, talk.running, "lost")
        if self.can_post(talk):
            self.posted(talk, self.message(UNSET))
        self.start_again(crash=True, empty=empty, eager=eager)

    @rule(crash=st.booleans(), empty=st.booleans(), eager=st.booleans())
    def start_again(self, crash: bool, empty: bool, eager: bool) -> None:
        """`empty`: without projections. Not `eager`: the next command meets what the crash left open."""
        waited = [reply.live for talk in self.talks.values() for reply in talk.owed if reply.live]
        self.run(self.real.crash() if crash else self.real.close())
        assert all(live.outcome for live in waited)
        if empty:
            self.real.forget_projections()
        self.run(self.real.open())
        if eager:
            self.run(self.real.supervisor.recover())
        for talk in self.talks.values():
            if talk.owed:
                self.closed_by_restart(talk, crash=crash)
                if crash:
                    self.met_again(talk, eager=eager)
        self.settle()

    def closed_by_restart(self, talk: SessionModel, *, crash: bool) -> None:
        for reply in talk.owed:
            if crash:
                reply.content = reply.content[: reply.checkpointed]
            reply.live = None
        talk.end_all("interrupted", self.real.now_us)

    def met_again(self, talk: SessionModel, *, eager: bool) -> None:
        """Recovery reads the session, which may count as an access or find it expired; so does a command."""
        if talk.is_due(self.real.now_us):
            talk.expire()
        elif eager and self.real.now_us - talk.accessed_us >= ACCESS_US:
            talk.accessed_us = self.real.now_us
            talk.version += 1
        if not eager:
            if talk.status == "expired":
                with pytest.raises(rejections.SessionExpired):
                    self.run(self.real.supervisor.ask(talk.session_id, CancelReply(), MINA))
            else:
                answer = self.run(self.real.supervisor.ask(talk.session_id, CancelReply(), MINA))
                assert answer.reply is None

    # what is true at all times

    @invariant()
    def the_history_is_the_models(self) -> None:
        for talk in self.talks.values():
            assert self.run(self.history(talk)) == talk.shown()

    async def history(self, talk: SessionModel) -> list[tuple[str, str, str, str]]:
        await self.real.reader.catch_up()
        session = await self.real.runner.queries.session(talk.session_id)
        assert session is not None
        assert (session.version, session.status, session.head) == (talk.version, talk.status, talk.head)
        if session.status == "deleted":
            with pytest.raises(rejections.SessionDeleted):
                await self.real.reader.history(talk.session_id, None, 1000, None)
            return []
        found = await self.real.reader.history(talk.session_id, None, 1000, None)
        assert found.offset == (talk.running.checkpointed if talk.running else 0)
        said = [*found.messages]
        async for remaining_messages in self.real.reader.remaining_messages(found):
            said += remaining_messages
        return [(one.row.message_id, one.row.role, one.row.status, one.content) for one in said]

    @invariant()
    def every_reply_that_has_ended_ended_once(self) -> None:
        recorded = self.run(self.real.log.read_all(limit=10_000))
        ended = Counter(event.event.reply_id for event in recorded if event.event and event.type in ENDINGS)  # type: ignore[union-attr]
        asking = MessagePosted | ReplyRequested
        owed = [event.event.reply_id for event in recorded if isinstance(event.event, asking)]
        still_open = {reply.message_id for talk in self.talks.values() for reply in talk.owed}
        assert set(ended) == {reply_id for reply_id in owed if reply_id is not None} - still_open
        assert not ended or max(ended.values()) == 1
        assert all(reply.status in OPEN for talk in self.talks.values() for reply in talk.owed)

    @invariant()
    def the_log_is_gapless_and_whole(self) -> None:
        walk, fault = self.run(verify(self.real.log))
        assert fault is None
        assert walk.position == sum(talk.version for talk in self.talks.values())
        assert self.real.seen.failed == 0

    @invariant()
    def the_figures_are_the_models(self) -> None:
        self.run(self.real.reader.catch_up())
        counts = self.run(self.real.runner.queries.counts())
        assert {status: n for status, n in counts.items() if n} == Counter(t.status for t in self.talks.values())
        used = self.run(self.real.runner.queries.usage("model", "0000-01-01", "9999-12-31"))
        assert sum(row.completion_tokens for row in used) == sum(talk.tokens for talk in self.talks.values())


SessionsAgainstModel.TestCase.settings = settings(
    max_examples=scaled(30),
    stateful_step_count=30,
    deadline=None,  # the disk decides how long an fsync takes
    suppress_health_check=[HealthCheck.too_slow],
)
TestSessionsAgainstModel = SessionsAgainstModel.TestCase
