"""The images that a request of a whole conversation brings: kept as uploads until its messages refer to them."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.media.decoded_files import decode_files
from chatbot.api.media.media_uploads import UPLOADS, MediaUploads, require_images_taken
from chatbot.api.message_parts import PostedFile
from chatbot.api.services import SERVICES
from chatbot.sessions.domain.commands import Caller
from events.media import MediaStore
from events.schema.parts import Media


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
