"""The aggregate's writer: decide, append with optimistic concurrency control, evolve, react.

If another node has appended first, the writer reads the new events of the stream and decides again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol, TypeVar

from msgspec.structs import replace

from chatbot.sessions.actor.mailbox import CommandResult, Envelope, Mailbox, MailboxClosed
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    SERVICE,
    Caller,
    CatchUp,
    CheckpointReply,
    Command,
    CreateSession,
    Decision,
    EndReply,
    PostMessage,
    PostTranscript,
    StartReply,
)
from chatbot.sessions.domain.decide import authorise, decide, find_refusal, idempotency_key_of
from chatbot.sessions.domain.message_checks import media_path
from chatbot.sessions.domain.model_request import BranchNotLoaded
from chatbot.sessions.domain.state import Rules, State, evolve, own_reply_ids
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ReplyEnded, ReplyProgressed, ReplyStarted
from events.errors import LogUnavailable, VersionConflict
from events.media import MediaMissing
from events.paging import read_pages
from events.record import RecordedEvent
from projections.errors import ProjectionError

CATCH_UP_RETRY_S = 1.0  # after the log could not be read
RECORD_RETRY_S = 1.0  # between attempts to record a reply's start or end while the disk refuses
ROUNDS_MIN, CONTENTION_MAX_S = 8, 5.0  # lost rounds, and seconds, of a race with other writers before giving up
CONTENDED = "others keep writing to this session; try again"
TEMPORARY_FAILURES = (LogUnavailable, ProjectionError)  # of the disk: nothing is wrong with the actor

Result = TypeVar("Result")
DecideNow = Callable[[Command, Envelope], Awaitable[Decision]]


class Contention:
    """A race with other writers, made when the first round of deciding and appending is lost: most commands lose none,
    and pay for nothing of it.
    """

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._lost = 1
        self._begun_s = timer()

    def begin_round(self) -> None:
        """Raises LogUnavailable when the caller should be told to try again."""
        if self._lost >= ROUNDS_MIN and self._timer() - self._begun_s >= CONTENTION_MAX_S:
            raise LogUnavailable(CONTENDED)
        self._lost += 1


async def retry_on_conflict(timer: Callable[[], float], action: Callable[[], Awaitable[Result]]) -> Result:
    """The result of `action`, repeated while it raises VersionConflict. Raises LogUnavailable after too many rounds."""
    contention: Contention | None = None
    while True:
        try:
            return await action()
        except VersionConflict:
            contention = contention or Contention(timer)
        contention.begin_round()


class Prepare(Protocol):
    """Loads what the decision on a command needs (`command_context.py`)."""

    def __call__(
        self, state: State | None, command: Command, caller: Caller, now_us: int, *, loads_branch: bool = False
    ) -> Awaitable[tuple[State | None, Command]]: ...


class ReplyReactor(Protocol):
    """Acts on what is recorded about replies (`reply_queue.py`)."""

    by_id: dict[str, Reply]
    shutting_down: bool

    def on_recorded(self, recorded: RecordedEvent, envelope: Envelope, state: State) -> Reply | None:
        """React to an event that this process has recorded; returns the reply that it concerns."""
        ...

    async def reconcile(self, state: State, ended: Mapping[str, RecordedEvent]) -> None:
        """Adapt to what other nodes have recorded; `ended` has the ends of replies among it, by reply."""
        ...


class SessionStream:
    """The state of one session and its stream in the log. For one task.

    `is_current`: the state has everything that was recorded before the current command arrived; always so with one
    process. `prepare` loads what the decision on a command needs.
    """

    def __init__(
        self, session_id: str, ports: Ports, mailbox: Mailbox, replies: ReplyReactor, prepare: Prepare
    ) -> None:
        self.state: State | None = None
        self._is_shared = ports.log.is_shared
        self.is_current = not self._is_shared
        self._session_id = session_id
        self._ports = ports
        self._mailbox = mailbox
        self._replies = replies
        self._prepare = prepare
        self._rules = ports.rules
        self._recent_max, self._tools_recent_max = ports.rules.recent_max, ports.rules.tools_recent_max
        self._catch_up_is_queued = False  # a CatchUp is in the mailbox
        # Ends of replies in `state` that `replies` does not know yet: kept if the log fails during a catch-up.
        self._unreconciled_ends: dict[str, RecordedEvent] = {}

    @property
    def existing_state(self) -> State:
        """The state of an existing session. Raises SessionNotFound."""
        if self.state is None:
            raise rejections.SessionNotFound(self._session_id)
        return self.state

    @property
    def version(self) -> int:
        return self.state.session.version if self.state else 0

    @property
    def rules(self) -> Rules:
        """With the provider's present names: it may detect only later which server it talks to."""
        rules, provider = self._rules, self._ports.provider
        if (rules.provider, rules.model, rules.models) != (provider.name, provider.model, provider.models):
            names = {"provider": provider.name, "model": provider.model, "models": provider.models}
            rules = self._rules = replace(rules, **names)
        return rules

    @property
    def has_lost_reply(self) -> bool:
        """Whether the log says that this node owns a reply that is not in memory: the append succeeded, but its
        acknowledgement was lost. Other nodes see this one alive, so none of them would close the reply.
        """
        if self.state is None or self._replies.shutting_down or not self._is_shared:
            return False  # what a node owes when it shuts down is started by its next life
        return not own_reply_ids(self.state.session, self._rules.node) <= self._replies.by_id.keys()

    def begin_command(self) -> None:
        """A new command: other nodes may have appended since the last one."""
        self.is_current = not self._is_shared

    def on_remote_append(self, version: int) -> None:
        """Another node may have recorded up to `version`: the actor reads it all at once."""
        if version > self.version:
            self._enqueue_catch_up()

    def schedule_catch_up(self) -> None:
        """After the log could not be read: no other notification may come, and a reply may be queued."""
        if self._is_shared:
            asyncio.get_running_loop().call_later(CATCH_UP_RETRY_S, self._enqueue_catch_up)

    def _enqueue_catch_up(self) -> None:
        if not self._catch_up_is_queued:
            with suppress(MailboxClosed):
                self._mailbox.tell(Envelope(CatchUp(), SERVICE))
                self._catch_up_is_queued = True

    def record(self, envelope: Envelope, command: Command | None = None) -> Awaitable[CommandResult]:
        """Decide `command` (None: the envelope's) and append its events; returns the state after them, and the reply
        that they concern.

        Raises Rejection, LogUnavailable, ProjectionError; and VersionConflict for a command with an idempotency key:
        the caller must check again whether another node has handled the same request.
        """
        return self._settle(self._decide, command or envelope.command, envelope)

    async def authorise(self, envelope: Envelope) -> None:
        """Raises the rejection if the envelope's caller may not use the session now; a due expiry is recorded first.

        Raises as `record`.
        """
        await self._settle(self._authorise, envelope.command, envelope)

    async def record_with_retry(self, envelope: Envelope, command: EndReply | StartReply) -> CommandResult:
        """Record what no caller would ask for again: repeated until the disk accepts it. While it refuses, those who
        wait for a reply's end get the error.
        """
        try:
            return await self.record(envelope, command)
        except TEMPORARY_FAILURES as error:
            self._ports.logger.warning("reply.not_recorded", reason=str(error), retry_s=RECORD_RETRY_S)
            again = Envelope(command, envelope.caller, cause=envelope.cause)
            asyncio.get_running_loop().call_later(RECORD_RETRY_S, self._enqueue_again, again)
            if isinstance(command, EndReply) and isinstance(error, LogUnavailable):
                stalled = self._replies.by_id.get(command.event.reply_id)
                if stalled is not None:
                    stalled.stall(error)
            raise

    def _enqueue_again(self, envelope: Envelope) -> None:
        try:
            self._mailbox.tell(envelope)
        except MailboxClosed:
            self._ports.logger.warning("reply.left_open")  # recovery closes it at the next activation

    def apply(self, recorded: tuple[RecordedEvent, ...], envelope: Envelope) -> Reply | None:
        """Evolve, publish, then react to the events; returns the reply that they concern."""
        for one in recorded:
            self.state = self._evolved(one)
        self._ports.feeds.publish(self._session_id, recorded)
        touched: Reply | None = None
        state = self.existing_state
        for one in recorded:
            touched = self._replies.on_recorded(one, envelope, state) or touched
        return touched

    async def catch_up(self) -> None:
        """Read what other nodes have recorded, and drop the replies that they have ended. Raises LogUnavailable."""
        self._catch_up_is_queued = False
        async for page in self._pages(self.version):
            for one in page:
                self.state = self._evolved(one)
                if isinstance(one.event, ReplyEnded):
                    self._unreconciled_ends[one.event.reply_id] = one
            self._ports.feeds.publish(self._session_id, page)
            if page[-1].position > self._ports.log.head().position:
                await self._ports.log.latest()  # callers that wait for the projections wait for these events, too
        self.is_current = True
        if self.state is not None:
            ended, self._unreconciled_ends = self._unreconciled_ends, {}
            await self._replies.reconcile(self.state, ended)

    def _evolved(self, recorded: RecordedEvent) -> State:
        return evolve(self.state, recorded, self._recent_max, self._tools_recent_max)

    def check(self, command: Command, envelope: Envelope) -> None:
        """Raises the refusal of `command`, then VersionMismatch.

        In this order: a deleted session, or another owner's, discloses neither its version nor its messages.
        """
        refused = find_refusal(self.state, command, envelope.caller, self._session_id)
        creates = self.state is None and isinstance(command, PostTranscript) and command.create is not None
        if refused is not None and not creates and not isinstance(command, CreateSession):
            raise refused
        if envelope.if_versions is not None and self.version not in envelope.if_versions:
            raise rejections.VersionMismatch(envelope.if_versions, self.version)

    async def versions_after_ends(self, versions: frozenset[int] | None) -> frozenset[int] | None:
        """The versions to expect now that replies were ended for a command that expects `versions` (None: any).

        Raises VersionMismatch if another node has recorded something else than progress and ends of replies since.
        """
        if versions is None or not self._is_shared:
            return None
        expected = max((one for one in versions if one <= self.version), default=0)
        async for page in self._pages(expected):
            for one in page:
                is_of_reply = isinstance(one.event, ReplyStarted | ReplyProgressed | ReplyEnded)
                if one.version <= self.version and not is_of_reply:
                    raise rejections.VersionMismatch(versions, self.version)
        return frozenset((self.version,))

    async def _settle(self, decide_now: DecideNow, command: Command, envelope: Envelope) -> CommandResult:
        """Decide and append, again after each round that is lost to other writers. Returns and raises as `record`."""
        contention: Contention | None = None
        while True:
            try:
                decision = await decide_now(command, envelope)
            except rejections.Rejection as refused:
                decision = Decision(rejection=refused)
            if decision.events:
                try:
                    recorded = await self._ports.log.append(
                        self._session_id, self.version, decision.events, envelope.metadata
                    )
                except VersionConflict:
                    await self.catch_up()
                    if idempotency_key_of(command) is not None:
                        raise
                except MediaMissing as error:
                    raise _missing_file(envelope.command, error) from error
                except LogUnavailable:
                    self.schedule_catch_up()  # it may have been recorded all the same
                    raise
                else:
                    envelope.messages = decision.messages
                    touched = self.apply(recorded, envelope)
                    if decision.rejection is not None:
                        raise decision.rejection
                    return CommandResult(self.existing_state, touched)
            elif self.is_current:
                if decision.rejection is not None:
                    raise decision.rejection
                return CommandResult(self.existing_state)
            else:  # decided on a state that may be stale
                await self.catch_up()
            contention = contention or Contention(self._ports.timer)
            contention.begin_round()

    async def _decide(self, command: Command, envelope: Envelope) -> Decision:
        match command:
            case EndReply() | CheckpointReply() if envelope.if_versions is None:
                return self._decide_on_reply(command, envelope.caller)
        now_us = self._ports.clock()
        self.check(command, envelope)
        self.state, prepared = await self._prepare(self.state, command, envelope.caller, now_us)
        try:
            return decide(self.state, prepared, now_us, self.rules, envelope.caller, self._session_id)
        except BranchNotLoaded:  # seldom, so that the branch is not searched twice for each message
            prepare = self._prepare(self.state, command, envelope.caller, now_us, loads_branch=True)
            self.state, prepared = await prepare
            return decide(self.state, prepared, now_us, self.rules, envelope.caller, self._session_id)

    def _decide_on_reply(self, command: EndReply | CheckpointReply, caller: Caller) -> Decision:
        """The decision needs nothing but the state, and refuses by itself. While a reply runs, the session is not due,
        whatever the time; and the provider's names matter only where the reply's model is none of them.
        """
        open_reply = self.state.session.open_reply if self.state is not None else None
        now_us = self._ports.clock() if open_reply is None else 0
        rules = self._rules if open_reply is not None and open_reply.names_model else self.rules
        return decide(self.state, command, now_us, rules, caller, self._session_id)

    async def _authorise(self, command: Command, envelope: Envelope) -> Decision:
        self.check(command, envelope)
        refused = authorise(self.state, command, self._ports.clock(), self.rules, envelope.caller, self._session_id)
        return refused or Decision()

    def _pages(self, after: int) -> AsyncIterator[list[RecordedEvent]]:
        return read_pages(self._ports.log, self._session_id, after=after, page_max=self._ports.limits.read_page_max)


def _missing_file(command: Command, error: MediaMissing) -> Exception:
    if isinstance(command, PostMessage | PostTranscript):
        return rejections.InvalidMessage(media_path(command, error.sha256), "there is no such file, or it has expired")
    return error
