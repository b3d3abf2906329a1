"""How the writer process answers the requests of events/remote/log_requests.py."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from events.media import MediaStat
from events.remote.log_requests import (
    NAMES,
    AbandonUpload,
    AddChunks,
    AwaitCleanWal,
    AwaitHead,
    BeginUpload,
    DeleteDue,
    FinishUpload,
    Probe,
)
from events.remote.remote_client import Handler, RemoteClient
from events.remote.wire_format import encoder
from events.storage.media_upload import PIECE_BYTES
from events.storage.sqlite import sqlite_media_schema as schema
from events.storage.sqlite.sqlite_log import SqliteLog, WriteSide

R = TypeVar("R", bound=Struct)


class _LogRequests:
    """The handlers, for one log."""

    def __init__(self, log: SqliteLog, side: WriteSide) -> None:
        self._log = log
        self._side = side

    async def probe(self, _request: Probe) -> None:
        await self._side.writer.probe()

    async def await_clean_wal(self, request: AwaitCleanWal) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(request.timeout_s):
                await self._side.store.wal_clean.wait()

    async def await_head(self, request: AwaitHead) -> None:
        await self._log.wait(request.position)

    async def begin_upload(self, request: BeginUpload) -> int:
        begin = partial(schema.begin_arrival, media_type=request.media_type, now_us=request.now_us)
        return await self._log.media.transact(begin)

    async def add_chunks(self, request: AddChunks) -> bool:
        add = partial(
            schema.add_chunks,
            media_id=request.media_id,
            number=request.number,
            chunks=request.chunks,
            now_us=request.now_us,
        )
        return await self._log.media.transact(add, size=PIECE_BYTES)

    async def finish_upload(self, request: FinishUpload) -> MediaStat | None:
        upload = request.holder, request.due_at_us
        finish = partial(schema.finish_arrival, media_id=request.media_id, sha256=request.sha256, upload=upload)
        return await self._log.media.transact(finish)

    async def abandon_upload(self, request: AbandonUpload) -> None:
        await self._log.media.transact(partial(schema.abandon_arrival, media_id=request.media_id))

    async def delete_due(self, request: DeleteDue) -> int:
        return await self._log.media.delete_due(request.now_us)


def log_handlers(log: SqliteLog, side: WriteSide) -> dict[str, Handler]:
    """The handlers of all requests in NAMES."""
    requests = _LogRequests(log, side)
    return dict(
        (
            _handler(Probe, requests.probe),
            _handler(AwaitCleanWal, requests.await_clean_wal),
            _handler(AwaitHead, requests.await_head),
            _handler(BeginUpload, requests.begin_upload),
            _handler(AddChunks, requests.add_chunks),
            _handler(FinishUpload, requests.finish_upload),
            _handler(AbandonUpload, requests.abandon_upload),
            _handler(DeleteDue, requests.delete_due),
        )
    )


def _handler(kind: type[R], serve: Callable[[R], Awaitable[Any]]) -> tuple[str, Handler]:
    decoder = msgspec.msgpack.Decoder(kind)

    async def handle(_client: RemoteClient, body: bytes) -> bytes:
        return encoder.encode(await serve(decoder.decode(body)))

    return NAMES[kind], handle
