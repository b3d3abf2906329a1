"""The same machine with all that makes a session more than one line: other replies, branches, forks, and requests that
come again.
"""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from msgspec import Struct, UnsetType
from msgspec.structs import replace

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    CancelReply,
    Command,
    DeleteSession,
    Fork,
    IdempotencyKey,
    PostMessage,
    Regenerate,
    SelectBranch,
)
from events.catalogue import Parameters
from tests.property.test_session_model import JUN, SessionsAgainstModel, texts, which
from tests.support.nightly import scaled
from tests.support.sessions.session_model import OPEN, MessageModel, SessionModel
from tests.support.sessions.sessions_harness import ACCESS_US, PENDING_MAX

target = st.integers(-3, 12)  # below zero: none named


class Known(Struct):
    """A request with a key that was answered: `id` is the reply's, the branch's or the new session's."""

    talk: SessionModel
    command: Any
    id: str | None


class BranchesAgainstModel(SessionsAgainstModel):
    """Rules of its own besides those of the plain machine."""

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Known] = []

    def idempotency_key(self) -> IdempotencyKey | None:
        """A key for every other request."""
        self.ids += 1
        return IdempotencyKey(f"key{self.ids}", f"print{self.ids}") if self.ids % 2 else None

    def keep(self, talk: SessionModel, command: Any, id_: str | None) -> None:
        if command.idempotency_key is not None:
            self.known.append(Known(talk, command, id_))

    def message(self, parent_id: str | UnsetType | None, on_busy: str = "queue") -> PostMessage:
        return replace(super().message(parent_id, on_busy), idempotency_key=self.idempotency_key())

    def posted(self, talk: SessionModel, command: PostMessage, if_version: int | None = None) -> None:
        super().posted(talk, command, if_version)
        self.keep(talk, command, command.reply_id)

    def named(self, talk: SessionModel, number: int) -> str | None:
        return None if number < 0 or not talk.lines else list(talk.lines)[number % len(talk.lines)]

    @rule(number=which, message=target, on_busy=st.sampled_from(["queue", "queue", "reject", "interrupt"]))
    def regenerate(self, number: int, message: int, on_busy: str) -> None:
        talk = self.pick(number)
        named, idempotency_key, reply_id = self.named(talk, message), self.idempotency_key(), self.new_id("r")
        command = Regenerate(reply_id, named, Parameters(seed=self.ids), on_busy, idempotency_key=idempotency_key)
        refusal = self.gone(talk) or self.busy(talk, on_busy)
        if refusal is None and named is None and talk.head is None:
            refusal = rejections.NothingToRegenerate
        if refusal is not None:
            with self.refused(refusal):
                self.ask(talk, command)
            return
        line = talk.lines[named or talk.head or ""]
        question = line.parent_id if line.role == "assistant" else line.message_id
        reply = MessageModel(reply_id, question, "assistant", "", "queued", seed=self.ids)
        ended = list(talk.owed) if on_busy == "interrupt" else []
        if ended:
            talk.end_all("cancelled", self.real.now_us)
        talk.add_reply(reply, self.real.now_us)
        reply.live = self.ask(talk, command).reply
        assert reply.live is not None
        assert (reply.live.message_id, reply.live.reply_id) == (question, reply_id)
        self.have_ended(ended)
        self.keep(talk, command, reply_id)

    def busy(self, talk: SessionModel, on_busy: str) -> type[rejections.Rejection] | None:
        if talk.owed and on_busy == "reject":
            return rejections.SessionBusy
        return rejections.TooManyPending if len(talk.owed) > PENDING_MAX and on_busy == "queue" else None

    @rule(number=which, message=st.integers(0, 12))
    def branch(self, number: int, message: int) -> None:
        talk = self.pick(number)
        named = self.named(talk, message) or "nowhere"
        command = SelectBranch(named, idempotency_key=self.idempotency_key())
        refusal = self.gone(talk) or (rejections.UnknownMessage if named == "nowhere" else None)
        if refusal is not None:
            with self.refused(refusal):
                self.ask(talk, command)
            return
        leaf = talk.newest_leaf(named)
        if leaf != talk.head or command.idempotency_key:
            talk.select(leaf, self.real.now_us)
        assert self.ask(talk, command).state.session.head == leaf
        self.keep(talk, command, leaf)

    @precondition(lambda self: sum(talk.status == "active" for talk in self.talks.values()) < 4)
    @rule(number=which, message=target)
    def fork(self, number: int, message: int) -> None:
        self.fork_of(self.pick(number), message)

    @precondition(lambda self: sum(talk.status == "active" for talk in self.talks.values()) < 4)
    @rule(number=which, text=texts, generations=st.integers(1, 2))
    def forks_outlive_their_origin(self, number: int, text: str, generations: int) -> None:
        talk = self.pick(number)
        if self.can_post(talk) and not talk.owed:
            self.a_whole_turn(number, text)
            following = talk
            for _ in range(generations):
                self.fork_of(following, message=-1)
                following = list(self.talks.values())[-1]
            self.delete_for_good(talk)

    def fork_of(self, talk: SessionModel, message: int) -> None:
        named, idempotency_key = self.named(talk, message), self.idempotency_key()
        command = Fork(self.new_id("s"), named, idempotency_key=idempotency_key)
        gone = self.gone(talk)
        if gone is not None:
            with self.refused(gone):
                self.ask(talk, command)
            return
        if self.real.now_us - talk.accessed_us >= ACCESS_US:
            talk.accessed_us = self.real.now_us
            talk.version += 1
        lines = talk.branch(named or talk.head)
        unfinished = next((index for index, line in enumerate(lines) if line.status in OPEN), None)
        if unfinished is not None and named is not None:
            with self.refused(rejections.SessionBusy):
                self.ask(talk, command)
            return
        lines = lines if unfinished is None else lines[: unfinished - 1]
        forked = SessionModel(
            command.session_id, talk.timeout_us, talk.context_max, self.real.now_us, dict(talk.metadata), talk.title
        )
        forked.lines = {line.message_id: replace(line, home=line.home or talk.session_id, live=None) for line in lines}
        if lines:
            forked.head, forked.version = lines[-1].message_id, 2
        self.talks[forked.session_id] = forked
        state = self.ask(talk, command).state
        assert (state.session.session_id, state.session.version) == (forked.session_id, forked.version)
        assert (state.session.message_count, state.session.head) == (len(lines), forked.head)
        assert (state.metadata, state.title) == (talk.metadata, talk.title)
        self.keep(talk, command, forked.session_id)

    @rule(number=which)
    def delete(self, number: int) -> None:
        self.delete_for_good(self.pick(number))

    def delete_for_good(self, talk: SessionModel) -> None:
        """Forks keep what they read here, the expired ones too."""
        if talk.status != "deleted":
            for fork in self.talks.values():
                borrowed = [line for line in fork.lines.values() if line.home == talk.session_id]
                fork.version += len(borrowed)
                for line in borrowed:
                    line.home = ""
            owed = list(talk.owed)
            talk.delete(self.real.now_us)
            self.ask(talk, DeleteSession())
            self.have_ended(owed)
        else:
            with self.refused(rejections.SessionDeleted):
                self.ask(talk, DeleteSession())

    @rule(number=which)
    def cancel_with_a_key(self, number: int) -> None:
        talk = self.pick(number)
        gone, running = self.gone(talk), talk.running
        self.ids += 1
        command = CancelReply(idempotency_key=IdempotencyKey(f"key{self.ids}", "print"))
        if gone is not None:
            with self.refused(gone):
                self.ask(talk, command)
        else:
            if running is None:
                talk.version += 1
                talk.accessed_us = self.real.now_us
            else:
                talk.end(running, "cancelled", self.real.now_us)
                talk.start_next()
            reply = self.ask(talk, command).reply
            assert (reply.reply_id if reply else None) == (running.message_id if running else None)
            self.keep(talk, command, running.message_id if running else None)

    @precondition(lambda self: self.known)
    @rule(number=st.integers(0, 50), another=st.booleans())
    def the_same_again(self, number: int, another: bool) -> None:
        """Whatever happened meanwhile, and at whatever version: no further effect, and the same answer."""
        known = self.known[-1 - number % len(self.known)]
        talk, command = known.talk, self.renewed(known.command)
        if another:
            command = replace(command, idempotency_key=IdempotencyKey(command.idempotency_key.key, "another"))
        refusal = self.gone(talk)
        if refusal is None and isinstance(command, Fork):
            refusal = rejections.KeyConsumed if self.talks[known.id or ""].status == "deleted" else None
        if refusal is None and another:
            refusal = rejections.KeyReused
        if refusal is not None:
            with self.refused(refusal):
                self.ask(talk, command)
            return
        answer = self.ask(talk, command, if_version=talk.version + 7)
        if isinstance(command, SelectBranch):
            assert answer.state.session.head == known.id
        elif isinstance(command, Fork):
            assert answer.state.session.session_id == known.id
        else:
            assert (answer.reply.reply_id if answer.reply else None) == known.id
            line = talk.lines[known.id] if known.id else None
            if line is not None and line.status not in OPEN and answer.reply:
                outcome = self.run(answer.reply.wait_end())
                assert (outcome.status, outcome.content) == (line.status, line.content)

    def renewed(self, command: Any) -> Any:
        """As the API sends it again: with new ids for what it might make."""
        if isinstance(command, PostMessage):
            return replace(command, message_id=self.new_id("m"), reply_id=self.new_id("r"))
        return replace(command, reply_id=self.new_id("r")) if isinstance(command, Regenerate) else command

    @rule(number=which)
    def a_stranger_is_told_of_nothing(self, number: int) -> None:
        talk = self.pick(number)
        message_id = next(iter(talk.lines), "nowhere")
        commands: list[Command] = [SelectBranch(message_id), Fork("s", message_id), SelectBranch("nowhere")]
        commands += [Regenerate("r", message_id, Parameters(), "interrupt"), Regenerate("r", None, Parameters())]
        commands += [known.command for known in self.known if known.talk is talk]
        for command in commands:
            with self.refused(rejections.SessionNotFound):
                self.ask(talk, command, if_version=talk.version + 1, caller=JUN)


BranchesAgainstModel.TestCase.settings = settings(
    max_examples=scaled(30),
    stateful_step_count=40,
    deadline=None,  # the disk decides how long an fsync takes
    suppress_health_check=[HealthCheck.too_slow],
)
TestBranchesAgainstModel = BranchesAgainstModel.TestCase
