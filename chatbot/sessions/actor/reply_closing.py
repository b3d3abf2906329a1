"""Ends a session's replies before the model does: cancelled or interrupted, on this node or on another one."""

from chatbot.sessions.actor.mailbox import Envelope
from chatbot.sessions.actor.reply_queue import ReplyQueue
from chatbot.sessions.actor.reply_task import ReplyTask
from chatbot.sessions.actor.stream_writer import SessionStream
from chatbot.sessions.domain.commands import Caller, CancelReply, EndReply
from chatbot.sessions.domain.state import with_idempotency_key
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.recorded_text import recorded_reply
from chatbot.sessions.replies.reply import Reply, recorded_outcome
from events.catalogue import Parameters, ReplyCancelled, ReplyEnded, ReplyInterrupted, ReplyStarted
from events.paging import read_pages
from projections.folds.session import OpenReply, PendingReply


class ReplyCloser:
    """Of one session, for its actor's task."""

    def __init__(self, session_id: str, ports: Ports, stream: SessionStream, replies: ReplyQueue) -> None:
        self._session_id = session_id
        self._ports = ports
        self._stream = stream
        self._replies = replies

    async def cancel(self, envelope: Envelope, command: CancelReply) -> Reply | None:
        """Cancel the running reply, on whichever node, or the reply that the command names, which may be queued.

        None if there is nothing to cancel: the named reply has ended, and the next one may run.
        """
        session, task = self._stream.existing_state.session, self._replies.task
        open_reply, wanted = session.open_reply, command.reply_id
        pending = next((one for one in session.pending if one.reply_id == wanted), None)
        if pending is not None:
            return await self._cancel_queued(envelope, command, pending)
        if wanted is not None and wanted not in _running_ids(task, open_reply):
            return None
        if task is None:
            return None if open_reply is None else await self._cancel_remote(envelope, command, open_reply)
        await task.stop()
        ended = with_idempotency_key(task.build_early_end(ReplyCancelled, command.cause), command.idempotency_key)
        result = await self._stream.record_with_retry(envelope, EndReply(ended, started=task.reply.version))
        if result.reply is not None:
            return result.reply
        # Another node has ended this attempt: perhaps a later attempt was cancelled.
        started = OpenReply(task.reply.reply_id, task.reply.message_id, task.reply.version)
        return await recorded_remote_reply(self._ports, self._session_id, started, envelope.caller) or task.reply

    async def _cancel_queued(self, envelope: Envelope, command: CancelReply, pending: PendingReply) -> Reply | None:
        """End a reply that has not started; a node that owes it learns that from the log."""
        ended = with_idempotency_key(ReplyCancelled(pending.reply_id, "", command.cause), command.idempotency_key)
        result = await self._stream.record(envelope, EndReply(ended))
        if result.reply is not None:
            return result.reply
        request = OpenReply(pending.reply_id, pending.message_id, pending.version)
        return await recorded_remote_reply(self._ports, self._session_id, request, envelope.caller)

    async def end_local_replies(
        self, event_class: type[ReplyCancelled | ReplyInterrupted], cause: str, envelope: Envelope
    ) -> None:
        """End this node's replies: the queued ones, then the running one."""
        for reply in self._replies.queued:
            await self._stream.record_with_retry(envelope, EndReply(event_class(reply.reply_id, "", cause)))
        task = self._replies.task
        if task is not None:
            await task.stop()
            ended = task.ended or task.build_early_end(event_class, cause)
            await self._stream.record_with_retry(envelope, EndReply(ended, started=task.reply.version))

    async def end_all_replies(self, cause: str, envelope: Envelope) -> None:
        """End all replies of the session, also those that other nodes owe or write.

        The running one comes last: otherwise the next in the queue would start in between.
        """
        if self._ports.log.is_shared:
            await self._stream.catch_up()
        for pending in reversed(self._stream.existing_state.session.pending):
            await self._stream.record_with_retry(envelope, EndReply(ReplyCancelled(pending.reply_id, "", cause)))
        await self.end_local_replies(ReplyCancelled, cause, envelope)
        open_reply = self._stream.existing_state.session.open_reply
        if open_reply is not None and self._ports.log.is_shared:
            await self._cancel_remote(envelope, CancelReply(cause), open_reply)

    async def _cancel_remote(self, envelope: Envelope, command: CancelReply, open_reply: OpenReply) -> Reply | None:
        """Cancel a reply that another node writes: that node records it with all of its text.

        If it does not answer, this node records the end with the text that is on record, and that node stops the model
        when it reads the append.
        """
        if not await self._ports.cluster.cancel(self._session_id, open_reply, command, envelope.caller):
            page = self._ports.limits.read_page_max
            recorded = await recorded_reply(self._ports.log, self._session_id, open_reply, page=page)
            content, parts = recorded.content, recorded.parts
            cancelled = ReplyCancelled(open_reply.reply_id, content, command.cause, parts=parts)
            ended = with_idempotency_key(cancelled, command.idempotency_key)
            await self._stream.record_with_retry(envelope, EndReply(ended, started=open_reply.version))
        await self._stream.catch_up()
        return await recorded_remote_reply(self._ports, self._session_id, open_reply, envelope.caller)


async def recorded_remote_reply(ports: Ports, session_id: str, open_reply: OpenReply, caller: Caller) -> Reply | None:
    """The reply with the end of its last attempt since `open_reply`, as the reply may have been requested once more.

    None if it has not ended, or the end is erased. Raises LogUnavailable.
    """
    started_at_us, page_max = 0, ports.limits.read_page_max
    ended: Reply | None = None
    async for page in read_pages(ports.log, session_id, after=open_reply.version - 1, page_max=page_max):
        for recorded in page:
            event = recorded.event
            if isinstance(event, ReplyStarted) and event.reply_id == open_reply.reply_id:
                started_at_us = recorded.recorded_at_us
            if isinstance(event, ReplyEnded) and event.reply_id == open_reply.reply_id:
                ended = Reply(open_reply.message_id, open_reply.reply_id, Parameters(), caller)
                ended.end(recorded_outcome(event, recorded, started_at_us))
    return ended


def _running_ids(task: ReplyTask | None, open_reply: OpenReply | None) -> set[str]:
    """The running reply's id, as this node knows it and as the log does."""
    here = {task.reply.reply_id} if task is not None else set()
    return here | ({open_reply.reply_id} if open_reply is not None else set())
