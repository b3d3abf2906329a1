"""The images that a request of a whole conversation brings: kept as uploads until its messages refer to them."""

import asyncio
import re
from collections.abc import Sequence

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.media.decoded_files import decode_files
from chatbot.api.media.media_access import MediaAccess
from chatbot.api.media.media_uploads import UPLOADS, MediaUploads, require_images_taken
from chatbot.api.message_parts import UPLOAD_HINT, PostedFile, SentFile
from chatbot.api.part_bodies import ImageUrl, ImageUrlBody
from chatbot.api.problems import RequestFault
from chatbot.api.services import SERVICES
from chatbot.sessions.domain.commands import Caller
from events.media import MediaStore
from events.schema.parts import Media

NO_URLS = "must be a data: URL, or the url of a file in this conversation: nothing is fetched"
_OWN_FILE = re.compile(r"(?:^|/)api/media/([0-9a-f]{64})(?:\?|$)")


async def keep_images(
    images: Sequence[PostedFile], uploads: MediaUploads, store: MediaStore, caller: Caller, now_us: int
) -> dict[str, Media]:
    """Each image as it is recorded, by the path of its part. The same image is kept once, however often it comes.

    Raises RequestFault, Overloaded, LogUnavailable.
    """
    kept: dict[str, Media] = {}
    media: dict[str, Media] = {}
    for one in await asyncio.to_thread(decode_files, images):
        if one.sha256 not in kept:
            upload = await uploads.put(
                store, one.pieces(), caller, now_us=now_us, size=len(one.data), path=one.fault_path
            )
            stat = upload.stat
            kept[one.sha256] = Media(stat.sha256, stat.media_type, stat.bytes)
        media[one.path] = kept[one.sha256]
    return media


async def keep_request_images(request: web.Request, images: Sequence[PostedFile], path: str) -> dict[str, Media]:
    """The images as they are kept, by the paths of their parts. `path`: of the field that has them all.

    Raises Unsupported, and what `keep_images` raises.
    """
    services = request.app[SERVICES]
    require_images_taken(services.provider.takes, path)
    return await keep_images(images, request.app[UPLOADS], services.log.media, request[CALLER], services.clock())


async def keep_sent_files(
    request: web.Request, files: Sequence[SentFile], path: str = "$.messages"
) -> dict[str, Media]:
    """The files of a transcript as they are recorded, by path: those that it brings are on disk then. `path`: of the
    field that has them all.

    Raises RequestFault, Unsupported, and what uploads raise.
    """
    if not files:
        return {}
    services, caller = request.app[SERVICES], request[CALLER]
    store, kept = services.log.media, dict[str, Media]()
    access = MediaAccess(store, services.queries, services.session_queries, caller)
    brought: list[PostedFile] = []
    for file in files:
        own = _OWN_FILE.search(file.url)
        if file.url.startswith("data:"):
            brought.append(PostedFile(file.path, ImageUrlBody(image_url=ImageUrl(file.url))))
        elif own is None:
            raise RequestFault(NO_URLS, file.path)
        else:
            kept[file.path] = await _known_file(own[1], file.path, access, request)
    if brought:
        kept |= await keep_request_images(request, brought, path)
    return kept


async def _known_file(sha256: str, path: str, access: MediaAccess, request: web.Request) -> Media:
    """Raises RequestFault if there is no such file that the caller may read."""
    stat = (await request.app[SERVICES].log.media.stat([sha256])).get(sha256)
    if stat is None or not await access.may_read(sha256, None):
        raise RequestFault(f"is no file that you have uploaded or may read: {UPLOAD_HINT}", path)
    return Media(stat.sha256, stat.media_type, stat.bytes)
