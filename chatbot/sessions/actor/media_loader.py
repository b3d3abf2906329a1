"""Loads the files of a model request into memory, within the bound for all requests of the process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from chatbot.llm.provider import ModelMessage, PartsMessage, Provider
from chatbot.sessions.domain.model_request import MEDIA_LEFT_OUT, ModelRequest, with_media
from chatbot.sessions.media_memory import MediaMemory
from events.media import MediaMissing, MediaStore
from events.schema.parts import media_of

COPIES = 3  # of a file that is being sent: its bytes, and in base64 the text and the request's body


class MediaPorts(Protocol):
    """What loading files needs of `Ports`."""

    @property
    def log(self) -> "HasMedia": ...

    @property
    def provider(self) -> Provider: ...

    @property
    def media_memory(self) -> MediaMemory: ...

    @property
    def logger(self) -> structlog.stdlib.BoundLogger: ...


class HasMedia(Protocol):
    """A log, as far as files are concerned."""

    @property
    def media(self) -> MediaStore: ...


@asynccontextmanager
async def loaded_messages(request: ModelRequest, ports: MediaPorts) -> AsyncIterator[tuple[ModelMessage, ...]]:
    """The messages of `request` with their files, which are held as long as the model may be sent them.

    A text takes the place of a file that the model server does not take, or that the log has lost. Raises
    LogUnavailable.
    """
    takes = ports.provider.takes
    if takes is not None and "media" not in takes:
        yield tuple(with_media(message, lambda _: MEDIA_LEFT_OUT) for message in request.messages)
        return
    wanted = {media.sha256: media.bytes for media in request.media}
    async with ports.media_memory.reserved(COPIES * sum(wanted.values())):
        loaded = {sha256: await _read(sha256, ports) for sha256 in wanted}
        files = {sha256: content for sha256, content in loaded.items() if content is not None}
        yield tuple(_with_files(message, files) for message in request.messages)


async def _read(sha256: str, ports: MediaPorts) -> bytes | None:
    """None if the log does not have the file any more: an imported or salvaged message may have lost it."""
    try:
        return b"".join([piece async for piece in ports.log.media.read(sha256)])
    except MediaMissing as error:
        ports.logger.warning("reply.media_missing", reason=str(error))
        return None


def _with_files(message: ModelMessage, files: dict[str, bytes]) -> ModelMessage:
    message = with_media(message, lambda media: media if media.sha256 in files else MEDIA_LEFT_OUT)
    if not isinstance(message, PartsMessage):
        return message
    own = {media.sha256: files[media.sha256] for media in media_of(message.parts)}
    return PartsMessage(message.role, message.content, message.parts, own)
