"""The actor that owns one session: receive, decide, append, evolve, answer. One task; nobody else appends to its
stream in this process, and `expected_version` decides every race with other nodes.
"""

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from chatbot.sessions import activate, errors
from chatbot.sessions.commands import (
    SERVICE,
    AskAgain,
    BeginErasure,
    CancelReply,
    CatchUp,
    CheckpointReply,
    DeleteSession,
    EndReply,
    Fork,
    InterruptReplies,
    PostMessage,
    Recover,
    Regenerate,
    StartReply,
    Stop,
    Touch,
)
from chatbot.sessions.decide import decide
from chatbot.sessions.endings import UNAVAILABLE, Endings
from chatbot.sessions.forking import Ask, fork, hand_over
from chatbot.sessions.idempotency import Answer, answer_again, forked, once_of
from chatbot.sessions.ledger import CONTENDED, Ledger, rounds
from chatbot.sessions.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.ports import Ports
from chatbot.sessions.reply import Reply
from events.catalogue import ReplyInterrupted
from events.errors import LogUnavailable, VersionConflict
from events.leftovers import finish_erasure
from projections.errors import ProjectionError

HAND_OVER_NOW_MAX = 2_000  # texts that forks read and DELETE waits for: a fifth of a second


class Actor:
    """`retire` is called once, when the actor has stopped. `is_new`: there is nothing to load yet."""

    def __init__(
        self,
        session_id: str,
        ports: Ports,
        retire: Callable[["Actor"], None],
        ask: Ask,
        *,
        is_new: bool = False,
    ) -> None:
        self.session_id = session_id
        self.mailbox = Mailbox(ports.limits.mailbox_max)
        self.failed = False
        self._ports = ports
        self._retire = retire
        self._ask = ask  # other sessions
        self._ledger = Ledger(session_id, ports, self.mailbox)
        self._endings = Endings(session_id, ports, self._ledger, self.mailbox)
        self._in_hand: Envelope | None = None
        self._is_new = is_new
        # A context of its own: the actor outlives the request that happened to activate it, whose id is not its own.
        self._task = asyncio.create_task(self._run(), name=f"session {session_id}", context=contextvars.Context())

    @property
    def is_idle(self) -> bool:
        return not self._ledger.replies.by_id and not self.mailbox and self._in_hand is None

    @property
    def replies(self) -> dict[str, Reply]:
        """Replies that run or wait, by id."""
        return self._ledger.replies.by_id

    def hear(self, version: int) -> None:
        """Another node may have recorded up to `version` of this session."""
        self._ledger.hear(version)

    async def stopped(self) -> None:
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        unread: Exception = MailboxClosed()  # open the session again
        try:
            if not self._is_new:
                self._ledger.state = await activate.load(self._ports, self.session_id)
                with suppress(errors.Rejection):  # another node has deleted the session meanwhile
                    await self._recover()
            await self._receive()
        except UNAVAILABLE as error:
            unread = error
            self._ports.logger.warning("actor.not_activated", error=type(error).__name__, reason=str(error))
        except Exception as error:
            self.failed = True
            self._ports.observe.actor_failed()
            self._ports.logger.exception("actor.failed", error=type(error).__name__)
            if self._in_hand is not None:
                self._in_hand.answer(errors.ActorFailed("internal error"))
        finally:
            for envelope in self.mailbox.close():
                envelope.answer(unread)
            self._retire(self)
            await self._ledger.replies.abandon()

    async def _receive(self) -> None:
        while True:
            envelope = await self.mailbox.take(self._ports.limits.idle_timeout_s)
            if envelope is None:
                if self.is_idle:
                    return
                continue
            if envelope.reply_to is not None and envelope.reply_to.done():
                continue  # the asker has left before anything was recorded
            self._in_hand = envelope
            try:
                answer = await self._handle(envelope)
            except (errors.Rejection, *UNAVAILABLE) as refusal:
                envelope.answer(refusal)
            else:
                envelope.answer(answer)
            self._in_hand = None
            if isinstance(envelope.command, Stop):
                return

    async def _handle(self, envelope: Envelope) -> Answer:
        self._ledger.begin()
        for _ in rounds(self._ports):
            if once_of(envelope.command) is not None and not self._ledger.is_level:
                await self._ledger.catch_up()  # the same request may have come to another node before
            again = await self._answer_again(envelope)
            if again is not None:
                return again
            try:
                return await self._carry_out(envelope)
            except VersionConflict:  # or it comes to another node just now
                continue
        raise LogUnavailable(CONTENDED)

    async def _carry_out(self, envelope: Envelope) -> Answer:
        """Raises VersionConflict where it has to be asked anew whether the request is a repeated one."""
        command = envelope.command
        match command:
            case CatchUp():
                return await self._catch_up()
            case Recover():
                await self._ledger.catch_up()
                await self._recover()
                return Answer(self._ledger.known)
            case CancelReply():
                return await self._cancel(envelope, command)
            case InterruptReplies() | Stop():
                return await self._leave(envelope)
            case Fork():
                return await self._fork(envelope, command)
            case DeleteSession():
                return await self._delete(envelope, command)
            case EndReply():
                return Answer(self._ledger.known, await self._endings.record_end(envelope, command))
            case StartReply():
                return Answer(self._ledger.known, await self._endings.until_recorded(envelope, command))
            case CheckpointReply():
                return await self._checkpoint(envelope)
            case PostMessage(on_busy="interrupt") | Regenerate(on_busy="interrupt"):
                await self._ledger.record(envelope, CancelReply())  # is the session there, and the asker's?
                await activate.prepare(self._ports, self._ledger.state, command)  # is what it follows there?
                await self._end_all("superseded", envelope)
        reply = await self._ledger.record(envelope)
        return Answer(self._ledger.known, reply)

    async def _catch_up(self) -> Answer:
        try:
            await self._ledger.catch_up()
            if self._ledger.owes_unknowingly:
                await self._recover()
        except UNAVAILABLE:
            self._ledger.look_again()
            raise
        return Answer(self._ledger.known)

    async def _checkpoint(self, envelope: Envelope) -> Answer:
        try:
            await self._ledger.record(envelope)
        except LogUnavailable as error:
            self._ports.logger.warning("reply.checkpoint_not_recorded", reason=str(error))
            if self._ledger.replies.running is not None:
                self._ledger.replies.running.checkpointed(None)
        return Answer(self._ledger.known)

    async def _cancel(self, envelope: Envelope, command: CancelReply) -> Answer:
        await self._ledger.record(envelope)  # is the session there, and the asker's?
        return Answer(self._ledger.known, await self._endings.cancel(envelope, command))

    async def _leave(self, envelope: Envelope) -> Answer:
        """The service is going down. What is to be retried after a restart is asked for again, on the record."""
        replies, state = self._ledger.replies, self._ledger.state
        owed, running = replies.owed(state) if state else (), replies.running
        replies.leaving = True
        await self._endings.end_ours(ReplyInterrupted, "shutdown", envelope)
        done = running.reply.reply_id if running is not None and running.ended is not None else None
        again = tuple(one for one in owed if one.reply_id != done)
        if again:
            await self._ledger.record(envelope, AskAgain(again))
        return Answer(self._ledger.known)

    async def _fork(self, envelope: Envelope, command: Fork) -> Answer:
        await self._ledger.record(envelope, Touch())  # is the session there, and the asker's?
        forked = await fork(self._ports, self._ledger.known, command, envelope.asker, envelope.metadata)
        if self._ports.log.is_shared:
            await self._hold_fork(envelope, command)
        return Answer(forked)

    async def _hold_fork(self, envelope: Envelope, command: Fork) -> None:
        """Another node may have erased this session meanwhile, and not have seen the fork whose texts lie here.

        So the fork is noted here, too: an erasure comes before, and the fork is taken back, or after, and sees it.
        """
        try:
            await self._ledger.record(envelope, Touch(noted=True))
        except errors.Rejection:
            await self._ask(command.session_id, DeleteSession("origin_deleted"), SERVICE)
            raise

    async def _answer_again(self, envelope: Envelope) -> Answer | None:
        """What the same request was answered when it came first; None when it is new, or is to be refused."""
        if self._ledger.state is None:
            return None
        now_us, rules = self._ports.clock(), self._ledger.rules
        if decide(self._ledger.state, Touch(), now_us, rules, envelope.asker, self.session_id).rejection is not None:
            return None
        if isinstance(envelope.command, Fork):  # its key is in the stream that it made
            return await forked(self._ports, envelope.command)
        return await answer_again(self._ports, self._ledger.state, envelope, self._ledger.replies.by_id)

    async def _delete(self, envelope: Envelope, command: DeleteSession) -> Answer:
        """On a full disk with the room that is kept for that."""
        async with self._ports.reserve.made() as is_full:
            if is_full:
                self._ports.runner.retry()
            answer = await self._end_and_erase(envelope, command)
            if is_full:  # the projections, too, need that room
                with suppress(ProjectionError):
                    await self._ports.runner.wait_for(self._ports.log.head().position)
            return answer

    async def _end_and_erase(self, envelope: Envelope, command: DeleteSession) -> Answer:
        for _ in rounds(self._ports):
            if not self._ledger.is_level:
                await self._ledger.catch_up()
            try:
                self._ledger.check(command, envelope)
            except errors.SessionDeleted:  # perhaps not all of it
                return await self._finish_erasure()
            await self._end_all("deleted", envelope)
            with suppress(VersionConflict):
                return await self._erase(envelope, command)
            self._ledger.begin()
        raise LogUnavailable(CONTENDED)

    async def _finish_erasure(self) -> Answer:
        """Raises SessionDeleted where nothing is left of the session."""
        try:
            if not await finish_erasure(self._ports.log, self.session_id):
                raise errors.SessionDeleted(self.session_id)
        finally:
            self._ports.texts.drop()
        self._ports.logger.warning("session.erasure_finished")
        return Answer(self._ledger.known)

    async def _end_all(self, cause: str, envelope: Envelope) -> None:
        """End all replies of the session, which moves its version on, but for no other reason where one is named."""
        versions, envelope.if_versions = envelope.if_versions, None
        await self._endings.cancel_all(cause, envelope)
        await self._ledger.hold_version(envelope, versions)

    async def _erase(self, envelope: Envelope, command: DeleteSession) -> Answer:
        """Raises VersionConflict."""
        state, rules = self._ledger.known, self._ledger.rules
        session = state.session
        texts_max = HAND_OVER_NOW_MAX if session.erasure is None else 0
        if not await hand_over(self._ports, session, self._ask, texts_max if command.may_wait else None):
            await self._ledger.record(envelope, BeginErasure(command.reason))
            return Answer(self._ledger.known)
        command = replace(command, usage=await self._ports.queries.usage_of(session.no))
        last_words = decide(state, command, self._ports.clock(), rules, SERVICE, self.session_id).events[0]
        try:
            recorded = await self._ports.log.erase(self.session_id, session.version, last_words, envelope.metadata)
        finally:
            self._ports.texts.drop()  # also when nobody knows whether it was erased
        self._ledger.apply(recorded, envelope)
        return Answer(self._ledger.known)

    async def _recover(self) -> None:
        """Close what a crash, or a node that is gone, has left open."""
        replies = self._ledger.replies
        for envelope in await activate.left_open(self._ports, self._ledger.state, replies.by_id):
            await self._ledger.record(envelope)
            self._ports.logger.info("reply.interrupted", cause="crash")
        state = self._ledger.state
        if state is not None and state.session.pending:  # they are to be retried
            for asked in await activate.waiting_replies(self._ports, state, replies.by_id):
                replies.wait(asked, activate.asker_of(asked))
            replies.start_next(state)
