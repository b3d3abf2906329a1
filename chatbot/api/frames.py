"""Frames of a streamed reply: Server-Sent Events (WHATWG HTML, 9.2), each one `id:` line and one `data:` line of JSON.

An id is a cursor, <version>:<offset>: the last recorded event that the reader knows, and how many code points it has
of the reply being written after it.
"""

import msgspec
from msgspec import Struct

from events.catalogue import Usage

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


class Start(Struct, frozen=True, tag_field="type", tag="start"):
    """The user's message is on disk; the reply will have the id `message_id`."""

    session_id: str
    message_id: str
    user_message_id: str
    version: int
    model: str | None


class Chunk(Struct, frozen=True, tag_field="type", tag="chunk"):
    content: str


class Complete(Struct, frozen=True, tag_field="type", tag="complete"):
    """The whole reply is on disk."""

    message_id: str
    full_response: str
    finish_reason: str | None
    token_usage: Usage | None
    created_at: str
    version: int


class Error(Struct, frozen=True, tag_field="type", tag="error"):
    """The reply failed, was cancelled or interrupted; its partial text is kept. `message` repeats `detail` (midm)."""

    status: str
    title: str
    detail: str
    message: str


Frame = Start | Chunk | Complete | Error

_encode = msgspec.json.Encoder().encode


def encode(frame: Frame, version: int, offset: int) -> bytes:
    return b"id: %d:%d\ndata: %b\n\n" % (version, offset, _encode(frame))
