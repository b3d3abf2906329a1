"""One reply as a stream of frames, for a request that posted a message or requested another reply.

Also the frame in which a reply ends, with one wording for a complete answer, its stream and the session's feed.
"""

from collections.abc import Callable
from enum import Enum, auto

from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES
from chatbot.api.streaming import frames
from chatbot.api.streaming.response_stream import DONE, News, Progress, ResponseStream, StreamContext, encode_frame
from chatbot.llm.provider import without_server_words
from chatbot.runtime.clock import timestamp
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.replies.growing_parts import NO_PART
from chatbot.sessions.replies.reply import Outcome, Reply
from events.parts import flat

RunningReply = Callable[[str], Reply | None]  # of a session
TITLES = {"cancelled": "Reply cancelled", "interrupted": "Reply interrupted"}


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
    """One reader of one reply: all that is new is sent as one frame, once the socket has room.

    `running_reply` finds the reply that runs in a session: another one may be ahead of `reply` in the queue. `after` is
    the reader's cursor, from an earlier answer to the same request.
    """

    def __init__(
        self,
        streams: StreamContext,
        session_id: str,
        reply: Reply,
        running_reply: RunningReply,
        after: ReaderCursor | None = None,
    ) -> None:
        self._session_id = session_id
        self._reply = reply
        self._streams = streams
        self._running_reply = running_reply
        self._version = reply.version or reply.posted_version
        self._offset_ahead = self._length_ahead(self._version)
        self._phase, self._offset = resume_point(reply, after)
        self._part = NO_PART  # the last part of which a frame was sent

    async def write(self, stream: ResponseStream) -> None:
        """Until the reply's end is known, or the reader leaves, which raises ConnectionError."""
        reply = self._reply
        if self._phase is ReplyPhase.ENDED:
            await stream.close(DONE)
            return
        if self._phase is ReplyPhase.START:
            start = frames.Start(self._session_id, reply.reply_id, reply.message_id, self._version, reply.model)
            await stream.send(encode_frame(start, self._version, self._offset_ahead))
        await self._streams.flush_scheduler.stream_updates(stream, self._take_news, reply.signal)
        last = self._unrecorded_frame(reply.length) if reply.outcome is None else self._terminal_frame(reply.outcome)
        await stream.close(self._encode_new_text() + last + DONE)

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
        return encode_frame(frames.Chunk(reply.since(offset)), reply.version or self._version, self._offset)

    def _encode_new_parts(self) -> bytes:
        reply, version = self._reply, self._reply.version or self._version
        segments = reply.segments(self._offset, self._part)
        self._offset, self._part = max(self._offset, reply.length), reply.last_part
        return b"".join([encode_frame(frames.growth_frame(one), version, one.end) for one in segments])

    def _length_ahead(self, version: int) -> int:
        """The length of the reply ahead of this one, if it was open at `version`, so that a feed need not repeat it."""
        if self._reply.version:
            return 0  # it has started, so none is ahead of it
        running = self._running_reply(self._session_id)
        return running.length if running is not None and running.version <= version else 0

    def _unrecorded_frame(self, offset: int) -> bytes:
        detail = "the reply's end cannot be recorded just now; follow the session for how it ended"
        version = self._reply.version or self._version
        status, title = "unrecorded", "Cannot record just now"
        reply = self._reply
        length = offset if reply.last_part == NO_PART else len(reply.content)
        failure = frames.Error(
            status, title, detail, detail, reply.reply_id, version, length, part_lengths=reply.part_lengths
        )
        return encode_frame(failure, version, offset + self._length_ahead(version))  # one of them is 0

    def _terminal_frame(self, outcome: Outcome) -> bytes:
        frame = terminal_frame(self._reply.reply_id, outcome)
        retry_ms = self._streams.retry_ms if outcome.cause == "shutdown" else None
        return encode_frame(frame, outcome.version, self._length_ahead(outcome.version), retry_ms=retry_ms)


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


def outcome_detail(outcome: Outcome) -> str:
    """A sentence for the client, without the model server's own words, which auditors find by the request id."""
    if outcome.cause == "llm_unavailable":
        return "LLM server not available"
    if outcome.detail:
        public_detail = without_server_words(outcome.detail)
        if public_detail == outcome.detail or outcome.request_id is None:
            return public_detail
        return (
            f"{public_detail}; auditors find its words in the session's trail,"
            f" under the request id {outcome.request_id}"
        )
    return {
        "shutdown": "the service was shut down while it replied",
        "crash": "the service stopped while it replied",
        "import": "the conversation was copied here before the reply had ended",
        "client": "cancelled at the client's request",
        "deleted": "the session was deleted",
        "superseded": "a newer message took its place",
    }.get(outcome.cause, outcome.cause)
