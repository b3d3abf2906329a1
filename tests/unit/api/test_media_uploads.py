"""Uploads: types by their first bytes, sizes, and how much one caller may leave unused."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatbot.api.media.media_access import MediaAccess
from chatbot.api.media.media_types import detect_media_type
from chatbot.api.media.media_uploads import UPLOADS_MAX, MediaUploads, Upload
from chatbot.api.problems import RequestFault
from chatbot.config.sections.media_settings import MediaSettings
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import Overloaded, SessionNotFound
from events.catalogue import MessagePosted
from events.media import MediaReference
from events.record import Metadata, RecordedEvent
from events.schema.parts import Media
from projections.folds.session import Session
from projections.fork_texts import ForkReference
from tests.support.log.memory_log import START_US
from tests.support.log.memory_media import MemoryMedia

PNG = b"\x89PNG\r\n\x1a\n"
NOW_US = START_US
HOUR_US = 3_600_000_000


class FakeSessions:
    """Sessions by id and owner; `borrowed` are the positions of events that the session `fork` has from another."""

    def __init__(self, owners: dict[str, str], borrowed: tuple[int, ...] = ()) -> None:
        self.owners = owners
        self.borrowed = borrowed
        self.peeked: list[str] = []

    async def peek(self, session_id: str, caller: Caller) -> Session:
        self.peeked.append(session_id)
        if self.owners.get(session_id) != caller.owner:
            raise SessionNotFound(session_id)
        return session(session_id)

    async def shows_kept_file(self, session: Session, sha256: str, positions: list[int]) -> bool:
        return False

    async def texts_read_by(self, fork_no: int, *, after: int, limit: int) -> list[ForkReference]:
        found = [ForkReference("m", position, None) for position in self.borrowed if position > after]
        return found[:limit] if fork_no == session("fork").no else []


def session(session_id: str) -> Session:
    return Session(sum(session_id.encode()), session_id, None, 0, 0, 0, 1, 1, 1)


class Uploads:
    """The uploads of a service with these limits, and its files."""

    def __init__(self, **limits: Any) -> None:
        self.media = MemoryMedia()
        self.uploads = MediaUploads(MediaSettings(**limits))

    async def put(self, chunks: AsyncIterator[bytes], owner: str = "ann", size: int | None = None) -> Upload:
        return await self.uploads.put(self.media, chunks, Caller(owner), now_us=NOW_US, size=size, path="$.message[0]")

    async def refer(self, sha256: str, position: int, session_id: str) -> None:
        """As a message of the session that refers to the file."""
        stat = (await self.media.stat([sha256]))[sha256]
        part = Media(sha256, stat.media_type, stat.bytes)
        posted = MessagePosted("m", None, "user", "", "r", parts=(part,))
        actor = Metadata(actor=f"the owner of {session_id}")
        self.media.refer(RecordedEvent(position, session_id, 1, "message_posted", 2, NOW_US, actor, posted))

    async def refused(self, *data: bytes, size: int | None = None) -> RequestFault:
        with pytest.raises(RequestFault) as caught:
            await self.put(pieces(*data), size=size)
        assert caught.value.path == "$.message[0]"
        return caught.value

    def access(self, sessions: FakeSessions, owner: str) -> MediaAccess:
        found: Any = sessions
        return MediaAccess(self.media, found, found, Caller(owner))


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (PNG + b"rest", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a......", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<svg xmlns=", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_the_type_is_that_of_the_first_bytes(head: bytes, media_type: str | None) -> None:
    assert detect_media_type(head) == media_type


async def test_a_file_that_comes_byte_by_byte_is_kept_until_it_is_due() -> None:
    service = Uploads(orphan_hours=2)
    kept = await service.put(pieces(*(bytes((byte,)) for byte in PNG + b"12345")))
    assert (kept.stat.media_type, kept.stat.bytes) == ("image/png", 13)
    assert kept.expires_at_us == NOW_US + 2 * HOUR_US
    assert await service.media.references(kept.stat.sha256, limit=9) == [MediaReference(0, "ann")]
    assert not service.uploads.arriving_bytes


async def test_files_that_are_not_accepted_are_refused() -> None:
    service = Uploads(max_bytes=1024, types=("image/png",))
    assert (await service.refused(b"<svg>")).status == 415
    assert (await service.refused()).status == 415
    assert (await service.refused(b"GIF89a" + bytes(20))).kind == "file-type"
    assert (await service.refused(PNG, size=1025)).status == 413
    assert (await service.refused(PNG, bytes(1017))).kind == "file-too-large"
    assert not service.uploads.arriving_bytes


async def test_what_one_caller_leaves_unused_has_a_limit() -> None:
    service = Uploads(max_bytes=1024, unused_max_bytes=1500)
    kept = await service.put(pieces(PNG, bytes(1000)))
    assert (await service.refused(PNG, bytes(600), size=608)).kind == "media-quota"
    assert (await service.refused(PNG, bytes(600))).status == 429
    await service.put(pieces(PNG, bytes(600)), "bob")
    await service.refer(kept.stat.sha256, 7, "a session")
    await service.put(pieces(PNG, bytes(601)))


async def test_uploads_count_before_they_are_there_and_have_a_limit_at_once() -> None:
    few, many = Uploads(max_bytes=1024, unused_max_bytes=1500), Uploads()

    async def nested(service: Uploads, depth: int) -> AsyncIterator[bytes]:
        """While this file arrives, from before its first byte, another one begins."""
        if depth:
            await service.put(nested(service, depth - 1), str(depth))
        else:
            assert (await service.refused(PNG, size=700)).kind == "media-quota"
        yield PNG + bytes(20)

    await few.put(nested(few, 0))
    with pytest.raises(Overloaded):
        await many.put(nested(many, UPLOADS_MAX))
    assert not few.uploads.arriving_bytes
    assert not many.uploads.arriving_bytes


async def test_a_file_is_read_by_its_uploader_and_by_readers_of_sessions_that_refer_to_it() -> None:
    service = Uploads()
    sessions = FakeSessions({"one": "ann", "two": "bob", "fork": "eve", "other": "eve"}, borrowed=(3, 7))
    sha256 = (await service.put(pieces(PNG))).stat.sha256

    async def may_read(owner: str, session_id: str | None = None) -> bool:
        return await service.access(sessions, owner).may_read(sha256, session_id)

    assert await may_read("ann")
    assert await may_read("ann", "no session")
    assert not await may_read("bob")
    assert not await may_read("bob", "one")
    await service.refer(sha256, 7, "two")
    assert await may_read("bob")
    assert await may_read("bob", "two")
    assert not await may_read("eve")
    assert not await may_read("eve", "two")
    assert not await may_read("eve", "other")
    assert await may_read("eve", "fork")
    assert await service.access(sessions, "eve").may_refer(sha256, session("fork"))
    assert not await service.access(sessions, "eve").may_refer(sha256, session("other"))


async def test_an_upload_counts_however_many_messages_of_others_refer_to_the_file() -> None:
    service, sessions = Uploads(), FakeSessions({})
    sha256 = (await service.put(pieces(PNG))).stat.sha256
    for position in range(1, 500):
        await service.refer(sha256, position, f"session {position}")
    assert await service.access(sessions, "ann").may_read(sha256, None)
    assert not sessions.peeked
    assert not await service.access(sessions, "eve").may_read(sha256, None)
    assert len(sessions.peeked) == 100


async def test_a_key_with_the_name_of_a_session_gains_nothing() -> None:
    service, sessions = Uploads(), FakeSessions({})
    sha256 = (await service.put(pieces(PNG))).stat.sha256
    await service.refer(sha256, 3, "eve")
    assert not await service.access(sessions, "eve").may_read(sha256, None)
