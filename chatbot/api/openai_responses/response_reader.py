"""A stored response as a stream of events, from any of them on: while it is written, here or by another process, and
long after its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from chatbot.api.openai_responses.object_ids import ResponseKey
from chatbot.api.services import Services
from chatbot.api.streaming.reply_view import ReplyView
from chatbot.api.streaming.reply_writer import ReplyWriter
from chatbot.api.streaming.response_stream import DONE, FlushScheduler, ResponseStream
from chatbot.sessions.feeds.channels import Channel, wait_any
from chatbot.sessions.recorded_replies import RecordedTurn
from chatbot.sessions.replies.growing_parts import Segment, cut_segments, flat_text, marks_of
from chatbot.sessions.replies.reply import Outcome, Reply

SLICE_CHARS = 4096  # of a recorded response, made into events and sent before the next: a slow reader holds no more

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
                writer = ReplyWriter(self._flush_scheduler, self._key.session_id, reply, running_reply, self._view)
                await writer.write(stream)
                return
            while self._channel.latest == seen and not feeds.closed and not self._is_here():
                await wait_any(self._channel.signal)

    def _is_here(self) -> bool:
        return find_local_reply(self._services, self._key) is not None

    async def _send_recorded(self, stream: ResponseStream, outcome: Outcome) -> None:
        made = self._view.start(outcome.version, 0)
        for one in _slices(outcome):
            made += self._view.segments([one], outcome.version)
            if len(made) >= SLICE_CHARS:
                await stream.send(made)
                made = b""
            else:
                await asyncio.sleep(0)  # a reader that has most of it is sent nothing for long: others go on meanwhile
        await stream.close(made + self._view.end(outcome, 0))


def _slices(outcome: Outcome) -> Iterator[Segment]:
    """All that the reply says, in pieces of SLICE_CHARS at most."""
    text = flat_text(outcome.parts) if outcome.parts else outcome.content
    for segment in cut_segments(text, 0, marks_of(outcome.parts)):
        yield Segment(
            segment.offset, segment.text[:SLICE_CHARS], segment.part, segment.kind, segment.call_id, segment.name
        )
        for start in range(SLICE_CHARS, len(segment.text), SLICE_CHARS):
            piece = segment.text[start : start + SLICE_CHARS]
            yield Segment(segment.offset + start, piece, segment.part, segment.kind, segment.call_id, segment.name)


def find_local_reply(services: Services, key: ResponseKey) -> Reply | None:
    """The reply as this process has it: one that it writes or owes, or the mirror of another process's."""
    supervisor = services.supervisor
    reply = supervisor.replies(key.session_id).get(key.reply_id)
    running = supervisor.running_reply(key.session_id)
    return reply or (running if running is not None and running.reply_id == key.reply_id else None)
