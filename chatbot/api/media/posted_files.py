"""The files of a posted message: looked up if they are there already, kept if the request brings them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from chatbot.api.media.decoded_files import DecodedFile, decode_files
from chatbot.api.media.media_access import MediaAccess
from chatbot.api.message_parts import UPLOAD_HINT, PostedFile
from chatbot.api.part_bodies import MediaBody
from chatbot.api.problems import RequestFault
from events.media import MediaStat, MediaStore
from events.schema.parts import Media
from projections.folds.session import Session

KeepFile = Callable[[DecodedFile], Awaitable[MediaStat]]


async def resolve_files(
    files: Sequence[PostedFile], session: Session, store: MediaStore, access: MediaAccess, keep: KeepFile
) -> dict[str, Media]:
    """Each file of a message to `session` as it is recorded, by the path of its part. `keep` uploads one; all are
    checked before one of them is kept.

    Raises RequestFault, LogUnavailable, ProjectionError, and what `keep` raises.
    """
    decoded = await asyncio.to_thread(decode_files, files)
    named = [(file, file.part) for file in files if isinstance(file.part, MediaBody)]
    stats = await store.stat(list({part.sha256 for _, part in named}))
    resolved: dict[str, Media] = {}
    for file, part in named:
        stat = stats.get(part.sha256)
        if stat is None or not await access.may_refer(part.sha256, session):
            raise RequestFault(f"is no file that you have uploaded or may read: {UPLOAD_HINT}", file.fault_path)
        _check_stated(part, stat, file.path)
        resolved[file.path] = _media(stat, part.name)
    for one in decoded:
        stat = None
        if await access.is_in_session(one.sha256, session):  # as in a repetition of the request
            stat = (await store.stat([one.sha256])).get(one.sha256)
        resolved[one.path] = _media(stat or await keep(one), None)
    return resolved


def _check_stated(part: MediaBody, stat: MediaStat, path: str) -> None:
    if part.media_type not in (None, stat.media_type):
        raise RequestFault(f"the file is {stat.media_type}", f"{path}.media_type")
    if part.bytes not in (None, stat.bytes):
        raise RequestFault(f"the file has {stat.bytes} bytes", f"{path}.bytes")


def _media(stat: MediaStat, name: str | None) -> Media:
    return Media(stat.sha256, stat.media_type, stat.bytes, name or None)
