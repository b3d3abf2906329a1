"""How the stream of one reply looks on the wire: one class for each protocol. Pure: it makes bytes and sends none."""

from collections.abc import Sequence
from typing import Protocol

from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.reply import Outcome


class ReplyView(Protocol):
    """Makes the bytes of one stream, called in the order of the reply: `start`, text and segments, `end`.

    `version` and `offset` are the reader's cursor after what is made; a protocol without cursors ignores them.
    `ReplyWriter` decides what is sent when.
    """

    def start(self, version: int, offset: int) -> bytes:
        """The reply is requested; nothing of it may be known yet."""
        ...

    def text(self, piece: str, version: int, offset: int) -> bytes:
        """More of a reply that is text alone: called for each piece, so it has to be fast."""
        ...

    def segments(self, segments: Sequence[Segment], version: int) -> bytes:
        """More of a reply of several parts; the cursor's offset is the end of each segment."""
        ...

    def end(self, outcome: Outcome, offset: int) -> bytes:
        """How the reply ended, and what the protocol sends last."""
        ...

    def unrecorded(self, version: int, length: int, offset: int) -> bytes:
        """The end cannot be recorded at the moment. `length`: code points of the reply that were sent."""
        ...

    def nothing_new(self) -> bytes:
        """The reader has had the whole reply before."""
        ...
