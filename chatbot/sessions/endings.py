"""How a session's replies come to their end: told by the model, cancelled, interrupted, here or on another node."""

import asyncio

from chatbot.sessions import elsewhere
from chatbot.sessions.commands import CancelReply, EndReply, StartReply
from chatbot.sessions.decide import keyed
from chatbot.sessions.ledger import Ledger
from chatbot.sessions.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.ports import Ports
from chatbot.sessions.reply import Reply
from chatbot.sessions.running import Running
from events.catalogue import ReplyCancelled, ReplyInterrupted
from events.errors import LogUnavailable
from projections.errors import ProjectionError
from projections.session import OpenReply, Pending

UNAVAILABLE = (LogUnavailable, ProjectionError)  # the disk's doing: nothing is wrong with the actor
RETRY_S = 1.0  # between attempts to record a reply's start or end while the disk refuses


class Endings:
    """Of one session, for its actor's task."""

    def __init__(self, session_id: str, ports: Ports, ledger: Ledger, mailbox: Mailbox) -> None:
        self._session_id = session_id
        self._ports = ports
        self._ledger = ledger
        self._mailbox = mailbox

    async def record_end(self, envelope: Envelope, command: EndReply) -> Reply | None:
        """A reply always ends: when the disk refuses, those who wait are told and the attempt is repeated."""
        try:
            return await self.until_recorded(envelope, command)
        except LogUnavailable as error:
            stalled = self._ledger.replies.by_id.get(command.event.reply_id)
            if stalled is not None:
                stalled.stall(error)
            raise

    async def until_recorded(self, envelope: Envelope, command: EndReply | StartReply) -> Reply | None:
        """What nobody else would ask for again is tried until the disk takes it."""
        try:
            return await self._ledger.record(envelope, command)
        except UNAVAILABLE as error:
            self._ports.logger.warning("reply.not_recorded", reason=str(error), retry_s=RETRY_S)
            again = Envelope(command, envelope.asker, cause=envelope.cause)
            asyncio.get_running_loop().call_later(RETRY_S, self._tell_again, again)
            raise

    def _tell_again(self, envelope: Envelope) -> None:
        try:
            self._mailbox.tell(envelope)
        except MailboxClosed:
            self._ports.logger.warning("reply.left_open")  # recovery closes it at the next activation

    async def cancel(self, envelope: Envelope, command: CancelReply) -> Reply | None:
        """Cancel the reply that is being written, wherever that is, or the one that the command names, which may still
        wait. None where there is nothing to cancel: the named reply has ended, and perhaps the next one runs.
        """
        session, running = self._ledger.known.session, self._ledger.replies.running
        written, wanted = session.open_reply, command.reply_id
        waiting = next((one for one in session.pending if one.reply_id == wanted), None)
        if waiting is not None:
            return await self._withdraw(envelope, command, waiting)
        if wanted is not None and wanted not in _open_ids(running, written):
            return None
        if running is None:
            return None if written is None else await self._cancel_elsewhere(envelope, command, written)
        await running.stop()
        ended = keyed(running.ended_early(ReplyCancelled, command.cause), command.once)
        return await self.record_end(envelope, EndReply(ended)) or running.reply

    async def _withdraw(self, envelope: Envelope, command: CancelReply, waiting: Pending) -> Reply | None:
        """End a reply that has not started; a node that owes it hears of that from the log."""
        ended = keyed(ReplyCancelled(waiting.reply_id, "", command.cause), command.once)
        reply = await self._ledger.record(envelope, EndReply(ended))
        if reply is not None:
            return reply
        asked = OpenReply(waiting.reply_id, waiting.message_id, waiting.version)
        return await elsewhere.ended_reply(self._ports, self._session_id, asked, envelope.asker)

    async def end_ours(self, ending: type[ReplyCancelled | ReplyInterrupted], cause: str, envelope: Envelope) -> None:
        """End this node's replies: those that wait, then the running one."""
        for reply in self._ledger.replies.waiting:
            await self.record_end(envelope, EndReply(ending(reply.reply_id, "", cause)))
        running = self._ledger.replies.running
        if running is not None:
            await running.stop()
            await self.record_end(envelope, EndReply(running.ended or running.ended_early(ending, cause)))

    async def cancel_all(self, cause: str, envelope: Envelope) -> None:
        """End all replies of the session, also those that other nodes owe or write; what runs last, or the next in turn
        would start in between.
        """
        if self._ports.log.is_shared:
            await self._ledger.catch_up()
        for waiting in reversed(self._ledger.known.session.pending):
            await self.record_end(envelope, EndReply(ReplyCancelled(waiting.reply_id, "", cause)))
        await self.end_ours(ReplyCancelled, cause, envelope)
        written = self._ledger.known.session.open_reply
        if written is not None and self._ports.log.is_shared:
            await self._cancel_elsewhere(envelope, CancelReply(cause), written)

    async def _cancel_elsewhere(self, envelope: Envelope, command: CancelReply, written: OpenReply) -> Reply | None:
        """Cancel a reply that another node writes: there, with all of its text, or by an append, with what is recorded.

        That node stops the model when it sees the append.
        """
        if not await self._ports.nodes.cancel(self._session_id, written, command, envelope.asker):
            text = await elsewhere.text_of(self._ports, self._session_id, written)
            ended = keyed(ReplyCancelled(written.reply_id, text, command.cause), command.once)
            await self.record_end(envelope, EndReply(ended))
        await self._ledger.catch_up()
        return await elsewhere.ended_reply(self._ports, self._session_id, written, envelope.asker)


def _open_ids(running: Running | None, written: OpenReply | None) -> set[str]:
    """The reply that is being written, here or elsewhere."""
    here = {running.reply.reply_id} if running is not None else set()
    return here | ({written.reply_id} if written is not None else set())
