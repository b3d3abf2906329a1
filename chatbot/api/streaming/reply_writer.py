"""One reply as a stream of frames, for a request that posted a message or requested another reply.

Also the frame in which a reply ends, with one wording for a complete answer, its stream and the session's feed.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

import msgspec

from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES, Problem
from chatbot.api.streaming import frames
from chatbot.api.streaming.outcome_details import outcome_detail
from chatbot.api.streaming.reply_view import ReplyView
from chatbot.api.streaming.response_stream import (
    DONE,
    FlushScheduler,
    News,
    Progress,
    ResponseStream,
    encode_frame,
)
from chatbot.runtime.clock import timestamp
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.replies.growing_parts import NO_PART, Segment
from chatbot.sessions.replies.reply import Outcome, Reply
from events.schema.parts import flat

RunningReply = Callable[[str], Reply | None]  # of a session
UNRECORDED = "the reply's end cannot be recorded just now; follow the session for how it ended"
TITLES = {"cancelled": "Reply cancelled", "interrupted": "Reply interrupted"}


_encode_json = msgspec.json.Encoder().encode


class ReplyPhase(Enum):
    """What a reader needs next of a reply."""

    START = auto()
    TEXT = auto()
    ENDED = auto()  # it has everything


def resume_point(reply: Reply, after: ReaderCursor | None) -> tuple[ReplyPhase, int]:
    """Where to continue for a reader whose cursor is `after`: the phase, and the offset in the text. Pure."""
    if after is None or after.version < (reply.version or reply.posted_version):
        return ReplyPhase.START, 0
    if reply.outcome is not None and after.version >= reply.outcome.version:
        return ReplyPhase.ENDED, reply.length
    # Before the reply's own start the offset counts the text of another reply, or of an earlier attempt.
    return ReplyPhase.TEXT, after.offset if reply.version else 0


class ReplyWriter:
    """One reader of one reply: all that is new is sent at once, as `view` makes it, once the socket has room.

    `running_reply` finds the reply that runs in a session: another one may be ahead of `reply` in the queue. `after` is
    the reader's cursor, from an earlier answer to the same request.
    """

    def __init__(
        self,
        flush_scheduler: FlushScheduler,
        session_id: str,
        reply: Reply,
        running_reply: RunningReply,
        view: ReplyView,
        after: ReaderCursor | None = None,
    ) -> None:
        self._session_id = session_id
        self._reply = reply
        self._flush_scheduler = flush_scheduler
        self._running_reply = running_reply
        self._view = view
        self._version = reply.version or reply.posted_version
        self._offset_ahead = self._length_ahead(self._version)
        self._phase, self._offset = resume_point(reply, after)
        self._part = NO_PART if after is None else after.part  # the last part of which something was sent

    def begin(self) -> bytes:
        """The first frames, which `write` sends unless they were sent with the headers; empty if there are none."""
        if self._phase is not ReplyPhase.START:
            return b""
        self._phase = ReplyPhase.TEXT
        return self._view.start(self._version, self._offset_ahead) + self._encode_new_text()

    async def write(self, stream: ResponseStream) -> None:
        """Until the reply's end is known, or the reader leaves, which raises ConnectionError."""
        reply = self._reply
        if self._phase is ReplyPhase.ENDED:
            await stream.close(self._view.nothing_new())
            return
        if first := self.begin():  # an empty chunk would end the stream
            await stream.send(first)
        await self._flush_scheduler.stream_updates(stream, self._take_news, reply.signal)
        await stream.close(self._encode_new_text() + self._encode_end())

    def _take_news(self) -> News:
        """The new text; OVER once the reply's end is known."""
        reply = self._reply
        return self._encode_new_text() if reply.outcome is None and reply.unrecorded is None else Progress.OVER

    def _encode_new_text(self) -> bytes:
        reply, offset = self._reply, self._offset
        if reply.last_part != NO_PART:
            return self._encode_new_parts()
        if reply.length <= offset:
            return b""
        self._offset = reply.length
        return self._view.text(reply.since(offset), reply.version or self._version, self._offset)

    def _encode_new_parts(self) -> bytes:
        reply, version = self._reply, self._reply.version or self._version
        segments = reply.segments(self._offset, self._part)
        self._offset, self._part = max(self._offset, reply.length), reply.last_part
        return self._view.segments(segments, version) if segments else b""

    def _encode_end(self) -> bytes:
        reply = self._reply
        if reply.outcome is not None:
            return self._view.end(reply.outcome, self._length_ahead(reply.outcome.version))
        version = reply.version or self._version
        return self._view.unrecorded(version, reply.length, reply.length + self._length_ahead(version))  # one is 0

    def _length_ahead(self, version: int) -> int:
        """The length of the reply ahead of this one, if it was open at `version`, so that a feed need not repeat it."""
        if self._reply.version:
            return 0  # it has started, so none is ahead of it
        running = self._running_reply(self._session_id)
        return running.length if running is not None and running.version <= version else 0


class FrameView:
    """A reply as the frames of POST /api/chat/stream. `retry_ms`: milliseconds after which to reconnect."""

    def __init__(self, session_id: str, reply: Reply, retry_ms: int) -> None:
        self._session_id = session_id
        self._reply = reply
        self._retry_ms = retry_ms

    def start(self, version: int, offset: int) -> bytes:
        reply = self._reply
        frame = frames.Start(self._session_id, reply.reply_id, reply.message_id, version, reply.model)
        return encode_frame(frame, version, offset)

    def text(self, piece: str, version: int, offset: int) -> bytes:
        # The bytes of encode_frame(frames.Chunk(piece), ...), in one step: there is one for each token.
        return b'id: %d:%d\ndata: {"type":"chunk","content":%b}\n\n' % (version, offset, _encode_json(piece))

    def segments(self, segments: Sequence[Segment], version: int) -> bytes:
        return b"".join([encode_frame(frames.growth_frame(one), version, one.end) for one in segments])

    def end(self, outcome: Outcome, offset: int) -> bytes:
        retry_ms = self._retry_ms if outcome.cause == "shutdown" else None
        frame = terminal_frame(self._reply.reply_id, outcome)
        return encode_frame(frame, outcome.version, offset, retry_ms=retry_ms) + DONE

    def unrecorded(self, version: int, length: int, offset: int) -> bytes:
        reply = self._reply
        sent = length if reply.last_part == NO_PART else len(reply.content)
        failure = frames.Error(
            "unrecorded",
            "Cannot record just now",
            UNRECORDED,
            UNRECORDED,
            reply.reply_id,
            version,
            sent,
            part_lengths=reply.part_lengths,
        )
        return encode_frame(failure, version, offset) + DONE

    def nothing_new(self) -> bytes:
        return DONE


def terminal_frame(reply_id: str, outcome: Outcome) -> frames.Complete | frames.Error:
    """The frame that ends a reply."""
    if outcome.status == "complete":
        return frames.Complete(
            message_id=reply_id,
            full_response=outcome.content,
            finish_reason=outcome.finish_reason,  # type: ignore[arg-type]  # as it was recorded: one of these words
            finish_detail=outcome.finish_detail,
            token_usage=outcome.usage,
            created_at=timestamp(outcome.created_at_us),
            version=outcome.version,
            duration_us=outcome.duration_us,
            time_to_first_token_us=outcome.time_to_first_token_us,
        )
    detail = outcome_detail(outcome)
    return frames.Error(
        status=outcome.status,
        title=TITLES.get(outcome.status) or CAUSES.get(outcome.cause, CAUSE_UNKNOWN)[1],
        detail=detail,
        message=detail,
        message_id=reply_id,
        version=outcome.version,
        length=len(outcome.content),
        part_lengths=tuple(len(flat(part)) for part in outcome.parts),
    )


def failure_of(outcome: Outcome, **members: Any) -> Problem:
    """The problem of a reply that has failed or was interrupted. `members` are added to the problem details."""
    status, title = CAUSES.get(outcome.cause, CAUSE_UNKNOWN)
    return Problem(status, outcome.cause.replace("_", "-"), title, outcome_detail(outcome), **members)
