"""A stored response as a stream of events, from any of them on: while it is written, here or by another process, and
long after its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from msgspec.structs import replace

from chatbot.api.openai_responses.object_ids import ResponseKey
from chatbot.api.services import Services
from chatbot.api.streaming.reply_view import ReplyView
from chatbot.api.streaming.reply_writer import ReplyWriter
from chatbot.api.streaming.response_stream import DONE, FlushScheduler, ResponseStream
from chatbot.sessions.feeds.channels import Channel, wait_any
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.recorded_replies import RecordedTurn
from chatbot.sessions.replies.growing_parts import NO_PART, Segment, cut_segments, flat_text, marks_of
from chatbot.sessions.replies.reply import Outcome, Reply

SLICE_CHARS = 4096  # of a response, made into events and sent before the next: a slow reader holds no more

FindTurn = Callable[[], Awaitable[RecordedTurn | None]]


class ResponseReader:
    """One reader of one response. `find_turn` reads what is recorded of it; `channel` is that of its session, and
    open.
    """

    def __init__(
        self,
        services: Services,
        flush_scheduler: FlushScheduler,
        key: ResponseKey,
        view: ReplyView,
        channel: Channel,
        find_turn: FindTurn,
    ) -> None:
        self._services = services
        self._flush_scheduler = flush_scheduler
        self._key = key
        self._view = view
        self._channel = channel
        self._find_turn = find_turn

    async def write(self, stream: ResponseStream) -> None:
        """Until the response's end, or the service's. Raises ConnectionError when the reader leaves, LogUnavailable,
        ProjectionError.
        """
        feeds = self._services.feeds
        while not feeds.closed:
            seen = self._channel.latest
            turn = await self._find_turn()
            if turn is None:  # erased meanwhile
                await stream.close(DONE)
                return
            if turn.outcome is not None:
                await self._send_recorded(stream, turn.outcome)
                return
            reply = find_local_reply(self._services, self._key)
            if reply is not None:
                running_reply = self._services.supervisor.running_reply
                after = await self._catch_up(stream, reply)
                writer = ReplyWriter(
                    self._flush_scheduler, self._key.session_id, reply, running_reply, self._view, after
                )
                await writer.write(stream)
                return
            while self._channel.latest == seen and not feeds.closed and not self._is_here():
                await wait_any(self._channel.signal)

    async def _catch_up(self, stream: ResponseStream, reply: Reply) -> ReaderCursor | None:
        """Send what a running reply has, but for its end. Returns up to where; None: nothing was sent."""
        if not reply.version or reply.length <= SLICE_CHARS:
            return None
        made, sent, part = self._view.start(reply.version, 0), 0, NO_PART
        while reply.length - sent > SLICE_CHARS:
            for piece in _slices(reply.segments(sent, part)):
                made = await _send_or_yield(stream, made + self._view.segments([piece], reply.version))
                sent, part = piece.end, piece.part
        if made:
            await stream.send(made)
        return ReaderCursor(reply.version, sent, part=part)

    def _is_here(self) -> bool:
        return find_local_reply(self._services, self._key) is not None

    async def _send_recorded(self, stream: ResponseStream, outcome: Outcome) -> None:
        made = self._view.start(outcome.version, 0)
        text = flat_text(outcome.parts) if outcome.parts else outcome.content
        for one in _slices(cut_segments(text, 0, marks_of(outcome.parts))):
            made = await _send_or_yield(stream, made + self._view.segments([one], outcome.version))
        await stream.close(made + self._view.end(outcome, 0))


async def _send_or_yield(stream: ResponseStream, made: bytes) -> bytes:
    """Send what was made, if that is enough. Returns what is still to be sent. Others go on meanwhile, also while a
    reader that has most of the response is sent nothing.
    """
    if len(made) >= SLICE_CHARS:
        await stream.send(made)
        made = b""
    await asyncio.sleep(0)
    return made


def _slices(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments in pieces of SLICE_CHARS at most."""
    for one in segments:
        yield replace(one, text=one.text[:SLICE_CHARS])
        for start in range(SLICE_CHARS, len(one.text), SLICE_CHARS):
            yield replace(one, offset=one.offset + start, text=one.text[start : start + SLICE_CHARS])


def find_local_reply(services: Services, key: ResponseKey) -> Reply | None:
    """The reply as this process has it: one that it writes or owes, or the mirror of another process's."""
    supervisor = services.supervisor
    reply = supervisor.replies(key.session_id).get(key.reply_id)
    running = supervisor.running_reply(key.session_id)
    return reply or (running if running is not None and running.reply_id == key.reply_id else None)
