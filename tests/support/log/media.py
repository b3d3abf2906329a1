"""Files for tests of what a log keeps besides events."""

import hashlib
import random
from collections.abc import AsyncIterator

from events.catalogue import MessagePosted
from events.log import EventLog
from events.media import MediaStat
from events.schema.parameters import Parameters
from events.schema.parts import Media, Text
from tests.support.log.sample_events import IMAGE_BYTES

FAR_US = 4_000_000_000_000_000  # a time that no test reaches
OWNER = "alice"
BYTES_MAX = 64 * 2**20
PAGE_BYTES = 4096  # of a database's file
PIECE_BYTES = 32


def file_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that nothing else has, the same each time."""
    return random.Random(f"{seed}:{size}").randbytes(size)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def pieces(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    """As a request's body arrives."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def put(
    log: EventLog, content: bytes, *, holder: str = OWNER, due_at_us: int = FAR_US, media_type: str = "image/png"
) -> MediaStat:
    return await log.media.put(media_type, pieces(content), holder=holder, due_at_us=due_at_us, bytes_max=BYTES_MAX)


async def read(log: EventLog, sha256: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in log.media.read(sha256, start, end)])


async def put_sample_files(log: EventLog) -> None:
    """What the events of `sample_events` refer to."""
    await put(log, IMAGE_BYTES, holder="samples")


def shown(*stats: MediaStat, message_id: str = "m") -> MessagePosted:
    """A message with a text and these files."""
    media = [Media(stat.sha256, stat.media_type, stat.bytes) for stat in stats]
    return MessagePosted(message_id, None, "user", "Look", None, Parameters(), parts=(Text("Look"), *media))


def pieces_found(content: bytes, searched: bytes) -> int:
    """Of one piece of each page of `content`, how many are in the bytes of some files."""
    pages = (searched[at : at + PAGE_BYTES] for at in range(0, len(searched), PAGE_BYTES))
    held = b"".join(page for page in pages if page.count(0) < len(page))  # overwritten pages are not searched again
    found, start = 0, 0
    for at in range(0, len(content) - PIECE_BYTES, PAGE_BYTES):
        piece = content[at : at + PIECE_BYTES]
        place = held.find(piece, start)
        if place < 0:
            place = held.find(piece, 0, start)
        if place >= 0:
            found, start = found + 1, place  # the next piece is mostly soon after
    return found
