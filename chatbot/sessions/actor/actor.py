"""The actor that owns one session (the single writer of its stream in this process): receive, decide, append, evolve,
answer. One task. `expected_version` settles every race with other nodes.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from chatbot.sessions.actor.command_context import prepare_command
from chatbot.sessions.actor.forks import copy_texts_to_forks, fork, withdraw_message
from chatbot.sessions.actor.hydration import load_state
from chatbot.sessions.actor.idempotency import find_earlier_result
from chatbot.sessions.actor.mailbox import CommandResult, Envelope, Mailbox, MailboxClosed
from chatbot.sessions.actor.recovery import caller_of, orphaned_requests, plan_recovery
from chatbot.sessions.actor.redaction import redact_message
from chatbot.sessions.actor.reply_closing import ReplyCloser
from chatbot.sessions.actor.reply_queue import ReplyQueue
from chatbot.sessions.actor.stream_writer import TEMPORARY_FAILURES, SessionStream, retry_on_conflict
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    SERVICE,
    BeginErasure,
    Caller,
    CancelReply,
    CatchUp,
    CheckpointReply,
    CloseOrphans,
    DeleteSession,
    EndReply,
    Fork,
    IdempotencyKey,
    InterruptReplies,
    PostMessage,
    PostTranscript,
    RecordAccess,
    RedactMessage,
    Regenerate,
    ReplyRequest,
    RequeueReplies,
    StartReply,
    Stop,
    WithdrawMessage,
)
from chatbot.sessions.domain.decide import decide, idempotency_key_of
from chatbot.sessions.domain.state import may_access
from chatbot.sessions.ports import AskSession, Ports
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ReplyInterrupted, SessionExpired
from events.errors import LogUnavailable
from events.integrity.incomplete_erasures import finish_erasure
from events.record import StreamVersion
from events.schema.naming import CONVERSATION
from projections.errors import ProjectionError

STATELESS_IDLE_S = 1.0  # as sessions.idle_timeout_s, of requests without a conversation: for retries of their clients
BEGUN_EVENTS_MAX = 100  # of a session, newest first: only copied texts follow the event that begins its erasure
NOT_FOUND = (rejections.UnknownMessage, rejections.UnknownReply, rejections.MessageNotFound)  # in the projections
COPY_INLINE_TEXTS_MAX = 2_000  # texts that are copied to forks before DELETE is answered: a fifth of a second


class Actor:
    """`on_stopped` is called once, when the actor has stopped. `ask` sends commands to other sessions. `is_new`: the
    session does not exist yet, so there is nothing to load. `owner`: whose command activates the actor.
    """

    def __init__(
        self,
        session_id: str,
        ports: Ports,
        on_stopped: Callable[["Actor"], None],
        ask: AskSession,
        *,
        is_new: bool = False,
        owner: str | None = None,
    ) -> None:
        self.session_id = session_id
        self.owner = owner
        self.mailbox = Mailbox(ports.limits.mailbox_max)
        self.failed = False
        self._ports = ports
        self._on_stopped = on_stopped
        self._ask = ask
        self._replies = ReplyQueue(session_id, ports, self.mailbox)
        prepare = partial(prepare_command, ports)
        self._stream = SessionStream(session_id, ports, self.mailbox, self._replies, prepare)
        self._reply_closer = ReplyCloser(session_id, ports, self._stream, self._replies)
        self._current: Envelope | None = None
        self._is_new = is_new
        # A context of its own: the actor outlives the request that activates it and must not log that request's id.
        self._task = asyncio.create_task(self._run(), name=f"session {session_id}", context=contextvars.Context())

    @property
    def is_idle(self) -> bool:
        return not self._replies.by_id and not self.mailbox and self._current is None

    def is_of(self, caller: Caller) -> bool:
        """Whether the session is in memory, and one that `caller` may access."""
        state = self._stream.state
        return state is not None and may_access(state.session.owner, caller)

    @property
    def replies(self) -> dict[str, Reply]:
        """Running and queued replies, by id."""
        return self._replies.by_id

    def on_remote_append(self, version: int) -> None:
        """Another node may have recorded up to `version` of this session."""
        self._stream.on_remote_append(version)

    async def stopped(self) -> None:
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        unread_answer: Exception = MailboxClosed()  # the caller is to activate the session again
        try:
            if not self._is_new:
                self._stream.state = await load_state(self._ports, self.session_id)
                with suppress(rejections.Rejection):  # another node has deleted the session meanwhile
                    await self._recover()
            await self._receive()
        except TEMPORARY_FAILURES as error:
            unread_answer = error
            self._ports.logger.warning("actor.not_activated", error=type(error).__name__, reason=str(error))
        except Exception as error:
            self.failed = True
            self._ports.observer.actor_failed()
            self._ports.logger.exception("actor.failed", error=type(error).__name__)
            if self._current is not None:
                self._current.answer(rejections.ActorFailed("internal error"))
        finally:
            for envelope in self.mailbox.close():
                envelope.answer(unread_answer)
            self._on_stopped(self)
            await self._replies.abandon()

    async def _receive(self) -> None:
        while True:
            envelope = await self.mailbox.take(self._idle_timeout_s)
            if envelope is None:
                if self.is_idle:
                    return
                continue
            if envelope.reply_to is not None and envelope.reply_to.done():
                continue  # the caller has left before anything was recorded
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

    @property
    def _idle_timeout_s(self) -> float:
        """A request without a conversation is not continued: its texts need not stay in memory."""
        timeout_s, state = self._ports.limits.idle_timeout_s, self._stream.state
        is_conversation = state is None or state.session.kind == CONVERSATION
        return timeout_s if is_conversation else min(timeout_s, STATELESS_IDLE_S)

    async def _handle(self, envelope: Envelope) -> CommandResult:
        self._stream.begin_command()
        command = envelope.command
        idempotency_key = idempotency_key_of(command)
        try:
            if idempotency_key is None:
                return await self._carry_out(envelope)
            once = partial(self._carry_out_once, envelope, idempotency_key)
            return await retry_on_conflict(self._ports.timer, once)
        except NOT_FOUND:
            if self._ports.log.is_shared:  # the projections may be ahead of the state: perhaps the session is deleted
                await self._stream.catch_up()
                self._stream.check(command, envelope)
            raise
        finally:
            if isinstance(command, ReplyRequest):
                self._ports.limiter.cancel(command.reply_id)

    async def _carry_out_once(self, envelope: Envelope, idempotency_key: IdempotencyKey) -> CommandResult:
        """Raises VersionConflict if another node may just have handled the same request: call again."""
        if not self._stream.is_current:
            await self._stream.catch_up()  # another node may have handled the same request before
        state, rules, open_replies = self._stream.state, self._stream.rules, self._replies.by_id
        earlier = await find_earlier_result(self._ports, state, rules, idempotency_key, envelope, open_replies)
        return await self._carry_out(envelope) if earlier is None else earlier

    def _carry_out(self, envelope: Envelope) -> Awaitable[CommandResult]:  # noqa: PLR0911, PLR0912  an arm for each command
        """Frequent commands come first: a pattern that does not match costs as much as three function calls."""
        command = envelope.command
        match command:
            case PostMessage() | Regenerate() | PostTranscript():
                if command.on_busy == "interrupt" and self._stream.state is not None:
                    return self._supersede_replies(envelope, command)
                return self._stream.record(envelope)
            case EndReply() | StartReply():
                return self._stream.record_with_retry(envelope, command)
            case CheckpointReply():
                return self._checkpoint(envelope)
            case CatchUp():
                return self._catch_up()
            case CloseOrphans():
                return self._close_orphans()
            case CancelReply():
                return self._cancel(envelope, command)
            case InterruptReplies() | Stop():
                return self._interrupt_for_shutdown(envelope)
            case Fork():
                return self._fork(envelope, command)
            case WithdrawMessage():
                return withdraw_message(self._ports, self._stream, envelope, command, self._ask)
            case DeleteSession():
                return self._delete(envelope, command)
            case RedactMessage():
                return redact_message(self._ports, self._stream, envelope, command)
            case _:
                return self._stream.record(envelope)  # as decided: decide() names each command

    async def _supersede_replies(self, envelope: Envelope, command: ReplyRequest) -> CommandResult:
        """Record a request for a reply that ends the replies before it; what refuses it comes before these ends."""
        await self._stream.authorise(envelope)
        await prepare_command(self._ports, self._stream.state, command, envelope.caller, self._ports.clock())
        await self._end_all_replies("superseded", envelope)
        return await self._stream.record(envelope)

    async def _close_orphans(self) -> CommandResult:
        await self._stream.catch_up()
        await self._recover()
        return self._result()

    def _result(self) -> CommandResult:
        return CommandResult(self._stream.existing_state)

    async def _catch_up(self) -> CommandResult:
        try:
            await self._stream.catch_up()
            if self._stream.has_lost_reply:
                await self._recover()
        except TEMPORARY_FAILURES:
            self._stream.schedule_catch_up()
            raise
        return self._result()

    async def _checkpoint(self, envelope: Envelope) -> CommandResult:
        try:
            await self._stream.record(envelope)
        except LogUnavailable as error:
            self._ports.logger.warning("reply.checkpoint_not_recorded", reason=str(error))
            if self._replies.task is not None:
                self._replies.task.on_checkpoint_recorded(None)
        return self._result()

    async def _cancel(self, envelope: Envelope, command: CancelReply) -> CommandResult:
        # Refuses; closes open tool calls; records the key of a request that finds nothing to cancel.
        await self._stream.record(envelope)
        reply = await self._reply_closer.cancel(envelope, command)
        return CommandResult(self._stream.existing_state, reply, closed_calls=envelope.closed_calls)

    async def _interrupt_for_shutdown(self, envelope: Envelope) -> CommandResult:
        """End this node's replies; with `retry_interrupted`, record new requests for them, for the next start."""
        state, task = self._stream.state, self._replies.task
        retry_requests = self._replies.retry_requests(state) if state else ()
        self._replies.shutting_down = True
        await self._reply_closer.end_local_replies(ReplyInterrupted, "shutdown", envelope)
        done = task.reply.reply_id if task is not None and task.ended is not None else None
        again = tuple(one for one in retry_requests if one.reply_id != done)
        if again:
            await self._stream.record(envelope, RequeueReplies(again))
        return self._result()

    async def _fork(self, envelope: Envelope, command: Fork) -> CommandResult:
        await self._stream.record(envelope, RecordAccess())  # forking is an access to the origin; refuses
        forked = await fork(self._ports, self._stream.existing_state, command, envelope.caller, envelope.metadata)
        if self._ports.log.is_shared:
            await self._record_fork(envelope, command)
        return CommandResult(forked)

    async def _record_fork(self, envelope: Envelope, command: Fork) -> None:
        """Record an access after the fork: another node may be erasing this session without having seen the fork.

        The erasure is then either before this record, and the fork is deleted again, or after it and sees the fork.
        """
        try:
            await self._stream.record(envelope, RecordAccess(always=True))
        except rejections.Rejection:
            with suppress(rejections.SessionHeld):  # a hold covers the fork: it stays, with what it could copy
                await self._ask(command.session_id, DeleteSession("origin_deleted"), SERVICE)
            raise

    async def _delete(self, envelope: Envelope, command: DeleteSession) -> CommandResult:
        """Delete the session; on a full disk, with the reserve released."""
        async with self._ports.reserve.released_if_full() as is_full:
            if is_full:
                self._ports.runner.retry()
            result = await self._end_and_erase(envelope, command)
            if is_full:  # the projections need that room, too
                with suppress(ProjectionError):
                    await self._ports.runner.wait_for(self._ports.log.head().position)
            return result

    async def _end_and_erase(self, envelope: Envelope, command: DeleteSession) -> CommandResult:
        async def attempt() -> CommandResult:
            self._stream.begin_command()
            if not self._stream.is_current:
                await self._stream.catch_up()
            try:
                self._stream.check(command, envelope)
            except rejections.SessionDeleted:  # an earlier erasure may be incomplete
                return await self._finish_erasure()
            unchanged = await self._check_holds(envelope, command)
            await self._end_all_replies("deleted", envelope)
            return await self._erase(envelope, command, unchanged)

        return await retry_on_conflict(self._ports.timer, attempt)

    async def _check_holds(self, envelope: Envelope, command: DeleteSession) -> StreamVersion:
        """The version of the stream of holds at which none covers the session. Raises SessionHeld, LogUnavailable."""
        state = self._stream.existing_state
        found = await self._ports.holds.find(self.session_id, state.session.owner, state.metadata)
        try:
            self._stream.check(replace(command, hold=found.hold), envelope)
        except rejections.SessionHeld:
            self._ports.observer.erasure_held()
            raise
        return found.unchanged

    async def _finish_erasure(self) -> CommandResult:
        """Complete an erasure. Raises SessionDeleted if nothing is left to erase."""
        try:
            if not await finish_erasure(self._ports.log, self.session_id):
                raise rejections.SessionDeleted(self.session_id)
        finally:
            self._ports.texts.drop()
        self._ports.logger.warning("session.erasure_finished")
        return self._result()

    async def _end_all_replies(self, cause: str, envelope: Envelope) -> None:
        """End all replies of the session. A command that expects a version then expects the one after these ends.

        Raises VersionMismatch if the session has changed otherwise.
        """
        versions, envelope.if_versions = envelope.if_versions, None
        await self._reply_closer.end_all_replies(cause, envelope)
        envelope.if_versions = await self._stream.versions_after_ends(versions)

    async def _erase(self, envelope: Envelope, command: DeleteSession, unchanged: StreamVersion) -> CommandResult:
        """Raises VersionConflict, also where the stream `unchanged` has changed."""
        state, rules = self._stream.existing_state, self._stream.rules
        session = state.session
        texts_max = COPY_INLINE_TEXTS_MAX if session.erasure is None else 0
        if not await copy_texts_to_forks(self._ports, session, self._ask, texts_max if command.may_wait else None):
            await self._stream.record(envelope, BeginErasure(command.reason, command.reason_code, command.ticket))
            self._log_erasure("session.erasure_begun", command, envelope)
            return self._result()
        if session.erasure is not None:  # in the background: for the reason that was given when it began
            command = await self._explained_as_begun(command)
        command = replace(command, usage=await self._ports.queries.usage_of(session.no))
        final_event = decide(state, command, self._ports.clock(), rules, SERVICE, self.session_id).events[0]
        try:
            recorded = await self._ports.log.erase(
                self.session_id, session.version, final_event, envelope.metadata, unchanged=unchanged
            )
        finally:
            self._ports.texts.drop()  # also if it is unknown whether the erasure succeeded
        self._log_erasure("session.erased", command, envelope)
        self._stream.apply(recorded, envelope)
        return self._result()

    def _log_erasure(self, name: str, command: DeleteSession, envelope: Envelope) -> None:
        codes = {"reason": command.reason, "reason_code": command.reason_code, "cause": envelope.cause}
        self._ports.logger.info(name, **codes, by=envelope.caller.owner, request_id=envelope.caller.request_id)

    async def _explained_as_begun(self, command: DeleteSession) -> DeleteSession:
        """`command` with the reason code and the ticket of the request that has begun the erasure."""
        if command.reason_code is not None or command.ticket is not None:
            return command
        newest = await self._ports.log.read(self.session_id, limit=BEGUN_EVENTS_MAX, backwards=True)
        for recorded in newest:
            if isinstance(recorded.event, SessionExpired) and recorded.event.erase_reason is not None:
                return replace(command, reason_code=recorded.event.reason_code, ticket=recorded.event.ticket)
        return command

    async def _recover(self) -> None:
        """Close or requeue the replies that a crash, or a dead node, has left open."""
        for envelope in await plan_recovery(self._ports, self._stream.state, self._replies.by_id):
            await self._stream.record(envelope)
            self._ports.logger.info("reply.interrupted", cause="crash")
        state = self._stream.state
        if state is not None and state.session.pending:  # they are to be retried
            for request in await orphaned_requests(self._ports, state, self._replies.by_id):
                self._replies.enqueue(request, caller_of(request))
            self._replies.start_next(state)
