"""The actor that owns one session: receive, decide, append, evolve, answer. One task; nobody else appends to its
stream in this process, and `expected_version` decides every race with other nodes.
"""

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from chatbot.sessions.actor import command_context
from chatbot.sessions.actor.forks import AskSession, copy_lent_texts, fork
from chatbot.sessions.actor.idempotency import CommandResult, find_earlier_result, fork_as_created, idempotency_key_of
from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.actor.reply_closing import TEMPORARY_FAILURES, ReplyCloser
from chatbot.sessions.actor.stream_writer import CONTENDED, SessionStream, retry_rounds
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    SERVICE,
    BeginErasure,
    CancelReply,
    CatchUp,
    CheckpointReply,
    CloseOrphans,
    DeleteSession,
    EndReply,
    Fork,
    InterruptReplies,
    PostMessage,
    RecordAccess,
    Regenerate,
    RequeueReplies,
    StartReply,
    Stop,
)
from chatbot.sessions.domain.decide import decide
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ReplyInterrupted
from events.errors import LogUnavailable, VersionConflict
from events.integrity.incomplete_erasures import finish_erasure
from projections.errors import ProjectionError

COPY_INLINE_TEXTS_MAX = 2_000  # texts that forks read and DELETE waits for: a fifth of a second


class Actor:
    """`retire` is called once, when the actor has stopped. `is_new`: there is nothing to load yet."""

    def __init__(
        self,
        session_id: str,
        ports: Ports,
        on_stopped: Callable[["Actor"], None],
        ask: AskSession,
        *,
        is_new: bool = False,
    ) -> None:
        self.session_id = session_id
        self.mailbox = Mailbox(ports.limits.mailbox_max)
        self.failed = False
        self._ports = ports
        self._on_stopped = on_stopped
        self._ask = ask  # other sessions
        self._stream = SessionStream(session_id, ports, self.mailbox)
        self._reply_closer = ReplyCloser(session_id, ports, self._stream, self.mailbox)
        self._current: Envelope | None = None
        self._is_new = is_new
        # A context of its own: the actor outlives the request that happened to activate it, whose id is not its own.
        self._task = asyncio.create_task(self._run(), name=f"session {session_id}", context=contextvars.Context())

    @property
    def is_idle(self) -> bool:
        return not self._stream.replies.by_id and not self.mailbox and self._current is None

    @property
    def replies(self) -> dict[str, Reply]:
        """Replies that run or wait, by id."""
        return self._stream.replies.by_id

    def on_remote_append(self, version: int) -> None:
        """Another node may have recorded up to `version` of this session."""
        self._stream.on_remote_append(version)

    async def stopped(self) -> None:
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        unread_answer: Exception = MailboxClosed()  # open the session again
        try:
            if not self._is_new:
                self._stream.state = await command_context.load_state(self._ports, self.session_id)
                with suppress(rejections.Rejection):  # another node has deleted the session meanwhile
                    await self._recover()
            await self._receive()
        except TEMPORARY_FAILURES as error:
            unread_answer = error
            self._ports.logger.warning("actor.not_activated", error=type(error).__name__, reason=str(error))
        except Exception as error:
            self.failed = True
            self._ports.observe.actor_failed()
            self._ports.logger.exception("actor.failed", error=type(error).__name__)
            if self._current is not None:
                self._current.answer(rejections.ActorFailed("internal error"))
        finally:
            for envelope in self.mailbox.close():
                envelope.answer(unread_answer)
            self._on_stopped(self)
            await self._stream.replies.abandon()

    async def _receive(self) -> None:
        while True:
            envelope = await self.mailbox.take(self._ports.limits.idle_timeout_s)
            if envelope is None:
                if self.is_idle:
                    return
                continue
            if envelope.reply_to is not None and envelope.reply_to.done():
                continue  # the asker has left before anything was recorded
            self._current = envelope
            try:
                answer = await self._handle(envelope)
            except (rejections.Rejection, *TEMPORARY_FAILURES) as refusal:
                envelope.answer(refusal)
            else:
                envelope.answer(answer)
            self._current = None
            if isinstance(envelope.command, Stop):
                return

    async def _handle(self, envelope: Envelope) -> CommandResult:
        self._stream.begin_command()
        for _ in retry_rounds(self._ports):
            if idempotency_key_of(envelope.command) is not None and not self._stream.is_current:
                await self._stream.catch_up()  # the same request may have come to another node before
            again = await self._find_earlier_result(envelope)
            if again is not None:
                return again
            try:
                return await self._carry_out(envelope)
            except VersionConflict:  # or it comes to another node just now
                continue
        raise LogUnavailable(CONTENDED)

    async def _carry_out(self, envelope: Envelope) -> CommandResult:
        """Raises VersionConflict where it has to be asked anew whether the request is a repeated one."""
        command = envelope.command
        match command:
            case CatchUp():
                return await self._catch_up()
            case CloseOrphans():
                await self._stream.catch_up()
                await self._recover()
                return CommandResult(self._stream.existing_state)
            case CancelReply():
                return await self._cancel(envelope, command)
            case InterruptReplies() | Stop():
                return await self._interrupt_for_shutdown(envelope)
            case Fork():
                return await self._fork(envelope, command)
            case DeleteSession():
                return await self._delete(envelope, command)
            case EndReply():
                return CommandResult(
                    self._stream.existing_state, await self._reply_closer.record_end(envelope, command)
                )
            case StartReply():
                return CommandResult(
                    self._stream.existing_state, await self._reply_closer.record_with_retry(envelope, command)
                )
            case CheckpointReply():
                return await self._checkpoint(envelope)
            case PostMessage(on_busy="interrupt") | Regenerate(on_busy="interrupt"):
                await self._stream.record(envelope, CancelReply())  # is the session there, and the asker's?
                await command_context.prepare_command(
                    self._ports, self._stream.state, command
                )  # is what it follows there?
                await self._end_all_replies("superseded", envelope)
        reply = await self._stream.record(envelope)
        return CommandResult(self._stream.existing_state, reply)

    async def _catch_up(self) -> CommandResult:
        try:
            await self._stream.catch_up()
            if self._stream.has_lost_reply:
                await self._recover()
        except TEMPORARY_FAILURES:
            self._stream.schedule_catch_up()
            raise
        return CommandResult(self._stream.existing_state)

    async def _checkpoint(self, envelope: Envelope) -> CommandResult:
        try:
            await self._stream.record(envelope)
        except LogUnavailable as error:
            self._ports.logger.warning("reply.checkpoint_not_recorded", reason=str(error))
            if self._stream.replies.running is not None:
                self._stream.replies.running.on_checkpoint_recorded(None)
        return CommandResult(self._stream.existing_state)

    async def _cancel(self, envelope: Envelope, command: CancelReply) -> CommandResult:
        await self._stream.record(envelope)  # is the session there, and the asker's?
        return CommandResult(self._stream.existing_state, await self._reply_closer.cancel(envelope, command))

    async def _interrupt_for_shutdown(self, envelope: Envelope) -> CommandResult:
        """The service is going down. What is to be retried after a restart is asked for again, on the record."""
        replies, state = self._stream.replies, self._stream.state
        retry_requests, running = replies.retry_requests(state) if state else (), replies.running
        replies.shutting_down = True
        await self._reply_closer.end_local_replies(ReplyInterrupted, "shutdown", envelope)
        done = running.reply.reply_id if running is not None and running.ended is not None else None
        again = tuple(one for one in retry_requests if one.reply_id != done)
        if again:
            await self._stream.record(envelope, RequeueReplies(again))
        return CommandResult(self._stream.existing_state)

    async def _fork(self, envelope: Envelope, command: Fork) -> CommandResult:
        await self._stream.record(envelope, RecordAccess())  # is the session there, and the asker's?
        fork_as_created = await fork(
            self._ports, self._stream.existing_state, command, envelope.caller, envelope.metadata
        )
        if self._ports.log.is_shared:
            await self._record_fork(envelope, command)
        return CommandResult(fork_as_created)

    async def _record_fork(self, envelope: Envelope, command: Fork) -> None:
        """Another node may have erased this session meanwhile, and not have seen the fork whose texts lie here.

        So the fork is noted here, too: an erasure comes before, and the fork is taken back, or after, and sees it.
        """
        try:
            await self._stream.record(envelope, RecordAccess(noted=True))
        except rejections.Rejection:
            await self._ask(command.session_id, DeleteSession("origin_deleted"), SERVICE)
            raise

    async def _find_earlier_result(self, envelope: Envelope) -> CommandResult | None:
        """What the same request was answered when it came first; None when it is new, or is to be refused."""
        if self._stream.state is None:
            return None
        now_us, rules = self._ports.clock(), self._stream.rules
        if (
            decide(self._stream.state, RecordAccess(), now_us, rules, envelope.caller, self.session_id).rejection
            is not None
        ):
            return None
        if isinstance(envelope.command, Fork):  # its key is in the stream that it made
            return await fork_as_created(self._ports, envelope.command)
        return await find_earlier_result(self._ports, self._stream.state, envelope, self._stream.replies.by_id)

    async def _delete(self, envelope: Envelope, command: DeleteSession) -> CommandResult:
        """On a full disk with the room that is kept for that."""
        async with self._ports.reserve.released_if_full() as is_full:
            if is_full:
                self._ports.runner.retry()
            answer = await self._end_and_erase(envelope, command)
            if is_full:  # the projections, too, need that room
                with suppress(ProjectionError):
                    await self._ports.runner.wait_for(self._ports.log.head().position)
            return answer

    async def _end_and_erase(self, envelope: Envelope, command: DeleteSession) -> CommandResult:
        for _ in retry_rounds(self._ports):
            if not self._stream.is_current:
                await self._stream.catch_up()
            try:
                self._stream.check(command, envelope)
            except rejections.SessionDeleted:  # perhaps not all of it
                return await self._finish_erasure()
            await self._end_all_replies("deleted", envelope)
            with suppress(VersionConflict):
                return await self._erase(envelope, command)
            self._stream.begin_command()
        raise LogUnavailable(CONTENDED)

    async def _finish_erasure(self) -> CommandResult:
        """Raises SessionDeleted where nothing is left of the session."""
        try:
            if not await finish_erasure(self._ports.log, self.session_id):
                raise rejections.SessionDeleted(self.session_id)
        finally:
            self._ports.texts.drop()
        self._ports.logger.warning("session.erasure_finished")
        return CommandResult(self._stream.existing_state)

    async def _end_all_replies(self, cause: str, envelope: Envelope) -> None:
        """End all replies of the session, which moves its version on, but for no other reason where one is named."""
        versions, envelope.if_versions = envelope.if_versions, None
        await self._reply_closer.end_all_replies(cause, envelope)
        await self._stream.expect_version(envelope, versions)

    async def _erase(self, envelope: Envelope, command: DeleteSession) -> CommandResult:
        """Raises VersionConflict."""
        state, rules = self._stream.existing_state, self._stream.rules
        session = state.session
        texts_max = COPY_INLINE_TEXTS_MAX if session.erasure is None else 0
        if not await copy_lent_texts(self._ports, session, self._ask, texts_max if command.may_wait else None):
            await self._stream.record(envelope, BeginErasure(command.reason))
            return CommandResult(self._stream.existing_state)
        command = replace(command, usage=await self._ports.queries.usage_of(session.no))
        final_event = decide(state, command, self._ports.clock(), rules, SERVICE, self.session_id).events[0]
        try:
            recorded = await self._ports.log.erase(self.session_id, session.version, final_event, envelope.metadata)
        finally:
            self._ports.texts.drop()  # also when nobody knows whether it was erased
        self._stream.apply(recorded, envelope)
        return CommandResult(self._stream.existing_state)

    async def _recover(self) -> None:
        """Close what a crash, or a node that is gone, has left open."""
        replies = self._stream.replies
        for envelope in await command_context.plan_recovery(self._ports, self._stream.state, replies.by_id):
            await self._stream.record(envelope)
            self._ports.logger.info("reply.interrupted", cause="crash")
        state = self._stream.state
        if state is not None and state.session.pending:  # they are to be retried
            for asked in await command_context.orphaned_requests(self._ports, state, replies.by_id):
                replies.wait(asked, command_context.caller_of(asked))
            replies.start_next(state)
