"""A reply that another node writes, as the log tells it."""

from chatbot.sessions.commands import Asker
from chatbot.sessions.outcome import outcome_at
from chatbot.sessions.ports import Ports
from chatbot.sessions.recorded_text import recorded_text
from chatbot.sessions.reply import Reply
from events.catalogue import Parameters, ReplyEnded, ReplyStarted
from projections.session import OpenReply


async def text_of(ports: Ports, session_id: str, written: OpenReply) -> str:
    """What is on record of it: less than its readers have, by a second or so. Raises LogUnavailable."""
    return await recorded_text(ports.log, session_id, written, page=ports.limits.read_page_max)


async def ended_reply(ports: Ports, session_id: str, written: OpenReply, asker: Asker) -> Reply | None:
    """The reply with its recorded end; None while it has none, or where that is erased. Raises LogUnavailable."""
    after, page_max = written.version - 1, ports.limits.read_page_max
    started_at_us = 0
    while page := await ports.log.read(session_id, after=after, limit=page_max):
        for recorded in page:
            event = recorded.event
            if isinstance(event, ReplyStarted) and event.reply_id == written.reply_id:
                started_at_us = recorded.recorded_at_us
            if isinstance(event, ReplyEnded) and event.reply_id == written.reply_id:
                reply = Reply(written.message_id, written.reply_id, Parameters(), asker)
                reply.end(outcome_at(event, recorded, started_at_us))
                return reply
        if len(page) < page_max:
            break
        after = page[-1].version
    return None
