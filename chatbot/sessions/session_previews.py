"""Previews: the newest text of each session in a list, read from the log, because projections hold no texts."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from events.catalogue import MessageCopied, MessagePosted, ReplyEnded
from events.log import EventLog
from events.record import RecordedEvent
from projections.folds.session import Session
from projections.port import NewestMessage, ProjectionQueries

PREVIEW_CHARS_MAX = 200  # more than one line of a list shows
_LOOKED_AT_CHARS = 2_000  # of a text, for those that begin with much white space
SOURCE_MAX_BYTES = 262_144  # of an event that is read for a preview: a list has many, and most texts are short


class Preview(Struct, frozen=True):
    """The newest message with text of a session's selected branch. `text`: its beginning on one line, empty if the
    message is larger than SOURCE_MAX_BYTES.
    """

    message_id: str
    role: str
    text: str


async def read_previews(log: EventLog, queries: ProjectionQueries, sessions: Sequence[Session]) -> dict[int, Preview]:
    """The previews by session number; absent where no message has text. Raises LogUnavailable, ProjectionError."""
    newest = await queries.newest_messages(sessions)
    sizes = await log.sizes(sorted({one.position for one in newest})) if newest else {}
    found: dict[int, Preview] = {}
    ends = {one.session_no: one for one in reversed(newest)}  # of each session the first
    parents = [one for one in newest if ends[one.session_no] is not one]
    for candidates in (list(ends.values()), parents):  # a parent's text is read only where the branch's end has none
        wanted = [one for one in candidates if one.session_no not in found]
        found |= await _read(log, wanted, sizes)
    return found


async def _read(log: EventLog, wanted: Iterable[NewestMessage], sizes: Mapping[int, int]) -> dict[int, Preview]:
    large = [one for one in wanted if sizes.get(one.position, 0) > SOURCE_MAX_BYTES]
    small = [one for one in wanted if sizes.get(one.position, 0) <= SOURCE_MAX_BYTES]
    texts = await log.read_at(sorted({one.position for one in small})) if small else {}
    found = {one.session_no: Preview(one.message_id, one.role, "") for one in large}
    for one in small:
        if text := _preview_text(texts.get(one.position)):
            found[one.session_no] = Preview(one.message_id, one.role, text)
    return found


def _preview_text(recorded: RecordedEvent | None) -> str:
    event = recorded.event if recorded else None
    if not isinstance(event, MessagePosted | MessageCopied | ReplyEnded):
        return ""  # erased meanwhile
    return " ".join(event.content[:_LOOKED_AT_CHARS].split())[:PREVIEW_CHARS_MAX]
