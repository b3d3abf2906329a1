"""A reply that another node writes, as the log tells it.

How a session's replies come to their end: told by the model, cancelled, interrupted, here or on another node.
"""

import asyncio

from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.actor.reply_task import ReplyTask
from chatbot.sessions.actor.stream_writer import SessionStream
from chatbot.sessions.domain.commands import Caller, CancelReply, EndReply, StartReply
from chatbot.sessions.domain.decide import with_idempotency_key
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.recorded_text import recorded_text
from chatbot.sessions.replies.reply import Reply, recorded_outcome
from events.catalogue import Parameters, ReplyCancelled, ReplyEnded, ReplyInterrupted, ReplyStarted
from events.errors import LogUnavailable
from projections.errors import ProjectionError
from projections.folds.session import OpenReply, PendingReply


async def recorded_remote_text(ports: Ports, session_id: str, open_reply: OpenReply) -> str:
    """What is on record of it: less than its readers have, by a second or so. Raises LogUnavailable."""
    return await recorded_text(ports.log, session_id, open_reply, page=ports.limits.read_page_max)


async def recorded_remote_reply(ports: Ports, session_id: str, open_reply: OpenReply, caller: Caller) -> Reply | None:
    """The reply with its recorded end; None while it has none, or where that is erased. Raises LogUnavailable."""
    after, page_max = open_reply.version - 1, ports.limits.read_page_max
    started_at_us = 0
    while page := await ports.log.read(session_id, after=after, limit=page_max):
        for recorded in page:
            event = recorded.event
            if isinstance(event, ReplyStarted) and event.reply_id == open_reply.reply_id:
                started_at_us = recorded.recorded_at_us
            if isinstance(event, ReplyEnded) and event.reply_id == open_reply.reply_id:
                reply = Reply(open_reply.message_id, open_reply.reply_id, Parameters(), caller)
                reply.end(recorded_outcome(event, recorded, started_at_us))
                return reply
        if len(page) < page_max:
            break
        after = page[-1].version
    return None


TEMPORARY_FAILURES = (LogUnavailable, ProjectionError)  # the disk's doing: nothing is wrong with the actor
RETRY_S = 1.0  # between attempts to record a reply's start or end while the disk refuses


class ReplyCloser:
    """Of one session, for its actor's task."""

    def __init__(self, session_id: str, ports: Ports, stream: SessionStream, mailbox: Mailbox) -> None:
        self._session_id = session_id
        self._ports = ports
        self._stream = stream
        self._mailbox = mailbox

    async def record_end(self, envelope: Envelope, command: EndReply) -> Reply | None:
        """A reply always ends: when the disk refuses, those who wait are told and the attempt is repeated."""
        try:
            return await self.record_with_retry(envelope, command)
        except LogUnavailable as error:
            stalled = self._stream.replies.by_id.get(command.event.reply_id)
            if stalled is not None:
                stalled.stall(error)
            raise

    async def record_with_retry(self, envelope: Envelope, command: EndReply | StartReply) -> Reply | None:
        """What nobody else would ask for again is tried until the disk takes it."""
        try:
            return await self._stream.record(envelope, command)
        except TEMPORARY_FAILURES as error:
            self._ports.logger.warning("reply.not_recorded", reason=str(error), retry_s=RETRY_S)
            again = Envelope(command, envelope.caller, cause=envelope.cause)
            asyncio.get_running_loop().call_later(RETRY_S, self._enqueue_again, again)
            raise

    def _enqueue_again(self, envelope: Envelope) -> None:
        try:
            self._mailbox.tell(envelope)
        except MailboxClosed:
            self._ports.logger.warning("reply.left_open")  # recovery closes it at the next activation

    async def cancel(self, envelope: Envelope, command: CancelReply) -> Reply | None:
        """Cancel the reply that is being written, wherever that is, or the one that the command names, which may still
        wait. None where there is nothing to cancel: the named reply has ended, and perhaps the next one runs.
        """
        session, running = self._stream.existing_state.session, self._stream.replies.running
        open_reply, wanted = session.open_reply, command.reply_id
        waiting = next((one for one in session.pending if one.reply_id == wanted), None)
        if waiting is not None:
            return await self._cancel_waiting(envelope, command, waiting)
        if wanted is not None and wanted not in _open_ids(running, open_reply):
            return None
        if running is None:
            return None if open_reply is None else await self._cancel_remote(envelope, command, open_reply)
        await running.stop()
        ended = with_idempotency_key(running.build_early_end(ReplyCancelled, command.cause), command.idempotency_key)
        return await self.record_end(envelope, EndReply(ended)) or running.reply

    async def _cancel_waiting(self, envelope: Envelope, command: CancelReply, waiting: PendingReply) -> Reply | None:
        """End a reply that has not started; a node that owes it hears of that from the log."""
        ended = with_idempotency_key(ReplyCancelled(waiting.reply_id, "", command.cause), command.idempotency_key)
        reply = await self._stream.record(envelope, EndReply(ended))
        if reply is not None:
            return reply
        asked = OpenReply(waiting.reply_id, waiting.message_id, waiting.version)
        return await recorded_remote_reply(self._ports, self._session_id, asked, envelope.caller)

    async def end_local_replies(
        self, ending: type[ReplyCancelled | ReplyInterrupted], cause: str, envelope: Envelope
    ) -> None:
        """End this node's replies: those that wait, then the running one."""
        for reply in self._stream.replies.waiting:
            await self.record_end(envelope, EndReply(ending(reply.reply_id, "", cause)))
        running = self._stream.replies.running
        if running is not None:
            await running.stop()
            await self.record_end(envelope, EndReply(running.ended or running.build_early_end(ending, cause)))

    async def end_all_replies(self, cause: str, envelope: Envelope) -> None:
        """End all replies of the session, also those that other nodes owe or write; what runs last, or the next in turn
        would start in between.
        """
        if self._ports.log.is_shared:
            await self._stream.catch_up()
        for waiting in reversed(self._stream.existing_state.session.pending):
            await self.record_end(envelope, EndReply(ReplyCancelled(waiting.reply_id, "", cause)))
        await self.end_local_replies(ReplyCancelled, cause, envelope)
        open_reply = self._stream.existing_state.session.open_reply
        if open_reply is not None and self._ports.log.is_shared:
            await self._cancel_remote(envelope, CancelReply(cause), open_reply)

    async def _cancel_remote(self, envelope: Envelope, command: CancelReply, open_reply: OpenReply) -> Reply | None:
        """Cancel a reply that another node writes: there, with all of its text, or by an append, with what is recorded.

        That node stops the model when it sees the append.
        """
        if not await self._ports.nodes.cancel(self._session_id, open_reply, command, envelope.caller):
            text = await recorded_remote_text(self._ports, self._session_id, open_reply)
            ended = with_idempotency_key(
                ReplyCancelled(open_reply.reply_id, text, command.cause), command.idempotency_key
            )
            await self.record_end(envelope, EndReply(ended))
        await self._stream.catch_up()
        return await recorded_remote_reply(self._ports, self._session_id, open_reply, envelope.caller)


def _open_ids(running: ReplyTask | None, open_reply: OpenReply | None) -> set[str]:
    """The reply that is being written, here or elsewhere."""
    here = {running.reply.reply_id} if running is not None else set()
    return here | ({open_reply.reply_id} if open_reply is not None else set())
