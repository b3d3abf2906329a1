"""The files that requests bring in data: URLs."""

import hashlib
from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from chatbot.api.media.media_types import HEAD_BYTES, detect_media_type
from chatbot.api.message_parts import PostedFile, decode_data_url
from chatbot.api.part_bodies import ImageUrlBody
from chatbot.api.problems import RequestFault
from events.media import MEDIA_CHUNK_BYTES

MISNOMERS = {"image/jpg": "image/jpeg"}  # as many clients write it


class DecodedFile(Struct, frozen=True):
    """A file that was in the request itself. `path` leads to its part, `fault_path` to what was wrong with it."""

    path: str
    fault_path: str
    data: bytes
    sha256: str

    async def pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), MEDIA_CHUNK_BYTES):
            yield self.data[start : start + MEDIA_CHUNK_BYTES]


def decode_files(files: Sequence[PostedFile]) -> list[DecodedFile]:
    """The files that are in data: URLs, in a thread: a large one takes long. Raises RequestFault."""
    decoded = []
    for file in files:
        if isinstance(file.part, ImageUrlBody):
            stated, data = decode_data_url(file.part.image_url.url, file.fault_path)
            found = detect_media_type(data[:HEAD_BYTES])
            if found is not None and MISNOMERS.get(stated, stated) != found:
                raise RequestFault(f"is {found} by its first bytes, not {stated}", file.fault_path)
            decoded.append(DecodedFile(file.path, file.fault_path, data, hashlib.sha256(data).hexdigest()))
    return decoded
