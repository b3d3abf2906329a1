"""A reader's place in a session, and what each recorded event adds to it. Pure.

A cursor is <version>:<offset>. Its offset counts what the reader has of whichever reply was open at its version, so
that reply need not be known: the first text recorded after the cursor, with no start before it, is that reply's.
"""

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions.reply import Reply
from events.catalogue import (
    ContentErased,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyStarted,
)
from events.record import RecordedEvent


class Place(Struct, frozen=True):
    """What a reader has: all events up to `version`, and `offset` code points of the reply that is open there.

    `reply_id` is None while that reply is not known, or there is none; `started_at_us` is 0 while not known.
    The reply that is open has started at version `open_since` or later, whichever it is.
    """

    version: int
    offset: int = 0
    reply_id: str | None = None
    started_at_us: int = 0
    open_since: int = 1


def advance(place: Place, recorded: RecordedEvent) -> tuple[Place, str]:
    """The place after the next event of the stream, and the text in it that the reader has not got."""
    event = recorded.event
    place = replace(place, version=recorded.version)
    match event:
        case ReplyStarted():  # also when it is started anew: then its text is, too
            started = replace(place, offset=0, reply_id=event.reply_id, started_at_us=recorded.recorded_at_us)
            return replace(started, open_since=recorded.version), ""
        case ReplyProgressed():
            return _progressed(place, event)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return _ended(place, event)
        case ContentErased():
            return Place(recorded.version), ""
        case _:
            return place, ""


def is_at(place: Place, reply: Reply) -> bool:
    """Whether the text that grows in `reply` continues at `place`.

    Whoever reads the log may be ahead of the session's actor, which then still has a reply that has ended, or an
    earlier attempt at the one that is open.
    """
    if not place.open_since <= reply.version <= place.version:
        return False
    return place.reply_id in (None, reply.reply_id)


def grown(place: Place, reply: Reply) -> tuple[Place, str]:
    """The place with all of the text so far, and what of it is new. Only where the reply `is_at` the place."""
    if reply.length <= place.offset:
        return place, ""
    text = reply.since(place.offset)
    offset, started_at_us = reply.length, reply.started_at_us
    return replace(place, offset=offset, reply_id=reply.reply_id, started_at_us=started_at_us), text


def _progressed(place: Place, event: ReplyProgressed) -> tuple[Place, str]:
    known, end = place.offset, event.offset + len(event.text)
    place = replace(place, reply_id=event.reply_id)
    if event.offset > known or end <= known:  # beyond a gap, which the live text or the end will fill; or known
        return place, ""
    return replace(place, offset=end), event.text[known - event.offset :]


def _ended(place: Place, event: ReplyEnded) -> tuple[Place, str]:
    """A reply that waited can end while another runs: it has no text, and changes nothing."""
    is_other = place.reply_id is not None and place.reply_id != event.reply_id
    if is_other or (place.reply_id is None and not event.content):
        return place, ""
    text = event.content[place.offset :]
    return replace(place, offset=0, reply_id=None, started_at_us=0, open_since=place.version), text
