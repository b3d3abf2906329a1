"""Uploads: files on their way into the log, within the limits of [media], and held there until a message refers to them
or they are due.
"""

from collections.abc import AsyncIterator

from aiohttp import web
from msgspec import Struct

from chatbot.api.media.media_types import HEAD_BYTES, detect_media_type
from chatbot.api.problems import RequestFault
from chatbot.api.server.connection_limits import StreamLimit
from chatbot.config.sections.media_settings import MediaSettings
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import Unsupported
from events.media import MediaStat, MediaStore, MediaTooLarge

UPLOADS_MAX = 16  # at once: each holds a few chunks in memory, and its writes share the log's writer with appends


class Upload(Struct, frozen=True):
    """A file that is kept until `expires_at_us`, or as long as messages refer to it."""

    stat: MediaStat
    expires_at_us: int


def require_images_taken(takes: frozenset[str] | None, path: str) -> None:
    """Before an image of a request is kept: the upload would outlive the request's refusal. `takes`: Provider.takes.
    Raises Unsupported.
    """
    if takes is not None and "media" not in takes:
        raise Unsupported("images", path)


def upload_holder(caller: Caller) -> str:
    """Under which name the log holds the uploads of `caller`; '' where the service runs without keys."""
    return caller.owner or ""


class MediaUploads:
    """The uploads of one application. `arriving_bytes`, by holder, counts those that are not on disk yet."""

    def __init__(self, limits: MediaSettings) -> None:
        self._limits = limits
        self._limit = StreamLimit(UPLOADS_MAX, "too many files are being uploaded already")
        self.arriving_bytes: dict[str, int] = {}

    async def put(
        self,
        store: MediaStore,
        chunks: AsyncIterator[bytes],
        caller: Caller,
        *,
        now_us: int,
        size: int | None,
        path: str | None = None,
    ) -> Upload:
        """Keep the file with the pieces `chunks` in `store`; `size` in bytes, where it is known. `path` leads to it in
        the body.

        Raises RequestFault: 413 where it is too large, 415 for a type that is not accepted, 429 where the caller has
        too many unused uploads; Overloaded, LogUnavailable, and what `chunks` raises.
        """
        if (size or 0) > self._limits.max_bytes:
            raise self._too_large(path)
        with self._limit.acquire(caller.owner):
            holder = upload_holder(caller)
            room = await self._room(store, holder, path)
            if (size or 0) > room:
                raise self._quota_exceeded(path)
            most = min(size or self._limits.max_bytes, room)
            due_at_us = now_us + round(self._limits.orphan_hours * 3_600_000_000)
            # Before a byte of it is read: others that arrive meanwhile must not count on the same room.
            self.arriving_bytes[holder] = self.arriving_bytes.get(holder, 0) + most
            try:
                head, chunks = await _split_head(chunks)
                media_type = self._accepted_type(head, path)
                stat = await store.put(
                    media_type, _joined(head, chunks), holder=holder, due_at_us=due_at_us, bytes_max=most
                )
            except MediaTooLarge:
                raise (self._quota_exceeded(path) if most == room else self._too_large(path)) from None
            finally:
                self.arriving_bytes[holder] -= most
                if not self.arriving_bytes[holder]:
                    del self.arriving_bytes[holder]
        return Upload(stat, due_at_us)

    async def _room(self, store: MediaStore, holder: str, path: str | None) -> int:
        """How many more bytes the holder may upload. Raises RequestFault for none."""
        taken = await store.unused_bytes(holder) + self.arriving_bytes.get(holder, 0)
        room = self._limits.unused_max_bytes - taken
        if room <= 0:
            raise self._quota_exceeded(path)
        return room

    def _accepted_type(self, head: bytes, path: str | None) -> str:
        media_type = detect_media_type(head)
        if media_type is None or media_type not in self._limits.types:
            accepted = ", ".join(self._limits.types) or "none"
            found = media_type or "of another type"
            why = f"the file is {found} by its first bytes; accepted are {accepted}"
            raise RequestFault(why, path, status=415, kind="file-type", title="File type not accepted")
        return media_type

    def _too_large(self, path: str | None) -> RequestFault:
        why = f"the file has more than {self._limits.max_bytes} bytes, which the setting media.max_bytes allows"
        return RequestFault(why, path, status=413, kind="file-too-large", title="File too large")

    def _quota_exceeded(self, path: str | None) -> RequestFault:
        why = (
            f"uploads that no message refers to may have {self._limits.unused_max_bytes} bytes together; each is"
            f" deleted {self._limits.orphan_hours:g} hours after it was sent"
        )
        return RequestFault(why, path, status=429, kind="media-quota", title="Too many unused uploads")


UPLOADS: web.AppKey[MediaUploads] = web.AppKey("uploads", MediaUploads)


async def _split_head(chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """At least the first HEAD_BYTES, or the whole file where it has less, and the rest of the pieces."""
    head = b""
    while len(head) < HEAD_BYTES:
        piece = await anext(chunks, b"")
        if not piece:
            break
        head += piece
    return head, chunks


async def _joined(head: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in chunks:
        yield piece
