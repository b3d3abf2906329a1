"""What the streams of both protocols do alike: a part of the reply is open until another one begins. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from chatbot.sessions.replies.growing_parts import Segment

_encode = msgspec.json.Encoder().encode


class PartView(ABC):
    """The part of a ReplyView that is about text. `_begin_part` sets `_delta_head`: the bytes before each delta."""

    def __init__(self) -> None:
        self._open: Segment | None = None  # the beginning of the part whose end was not sent yet
        self._delta_head = b""

    def text(self, piece: str, version: int, offset: int) -> bytes:
        """As ReplyView.text."""
        begin = b"" if self._open is not None else self._begin(Segment(0, ""))
        return begin + self._delta(piece)

    def segments(self, segments: Sequence[Segment], version: int) -> bytes:
        """As ReplyView.segments."""
        return b"".join([self._grow(one) for one in segments])

    def _grow(self, segment: Segment) -> bytes:
        begin = b""
        if self._open is None or self._open.part != segment.part:
            begin = self._close() + self._begin(segment)
        return begin + self._delta(segment.text) if segment.text else begin

    def _delta(self, piece: str) -> bytes:
        return self._delta_head + _encode(piece) + b"}\n\n"

    def _begin(self, segment: Segment) -> bytes:
        self._open = segment
        return self._begin_part(segment)

    def _close(self) -> bytes:
        """What ends the open part; nothing if there is none."""
        part, self._open = self._open, None
        return b"" if part is None else self._end_part(part)

    @abstractmethod
    def _begin_part(self, segment: Segment) -> bytes: ...

    @abstractmethod
    def _end_part(self, part: Segment) -> bytes: ...
