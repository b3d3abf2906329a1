"""The timer that watches over one reader's stream."""

import asyncio
from typing import Any, cast

from chatbot.api.streaming.response_stream import ReaderConnection, ResponseStream


class Answer:
    """An answer that ends when the socket says so."""

    chunked = True

    def __init__(self, socket: "Stuck") -> None:
        self._socket = socket

    async def write_eof(self, last: bytes) -> None:
        self._socket.write(last + b"0\r\n\r\n")
        await self._socket.drain()


class Stuck:
    """A socket with no room, and the answer that is written to it."""

    chunked = True
    output_size = 0

    def __init__(self) -> None:
        self.aborted = asyncio.Event()
        self.written: list[bytes] = []

    def set_write_buffer_limits(self, high: int | None = None) -> None: ...

    def get_protocol(self) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted.is_set()

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))

    async def drain(self) -> None:
        await self.aborted.wait()
        raise ConnectionResetError

    def abort(self) -> None:
        self.aborted.set()


async def test_a_reader_that_stalls_late_is_let_go_in_time_however_rare_the_pings() -> None:
    stuck = cast(Any, Stuck())
    stream = ResponseStream(stuck, ReaderConnection(stuck, stuck), 60.0, 0.1)
    try:
        await asyncio.sleep(0.25)  # the first looks find nothing wrong
        stalled = asyncio.create_task(stream.send(b"data: x\n\n"))
        async with asyncio.timeout(2):
            await asyncio.wait((stalled,))
        assert isinstance(stalled.exception(), ConnectionResetError)
    finally:
        stream.stop_timer()


async def test_what_is_pushed_is_one_chunk_and_no_room_is_told() -> None:
    stuck = Stuck()
    stream = ResponseStream(cast(Any, stuck), ReaderConnection(cast(Any, stuck), cast(Any, stuck)), 60.0, 60.0)
    assert stream.push(b"data: x\n\n") is False
    assert stuck.written == [b"9\r\ndata: x\n\n\r\n"]
    stream.stop_timer()


async def test_a_reader_without_room_gets_no_pings() -> None:
    stuck = Stuck()
    stream = ResponseStream(cast(Any, stuck), ReaderConnection(cast(Any, stuck), cast(Any, stuck)), 0.02, 60.0)
    waiting = asyncio.create_task(stream.send(b"data: x\n\n"))
    await asyncio.sleep(0.1)
    assert len(stuck.written) == 1
    waiting.cancel()
    stream.stop_timer()


async def test_a_reader_that_takes_not_even_a_ping_is_let_go() -> None:
    stuck = Stuck()
    stream = ResponseStream(cast(Any, stuck), ReaderConnection(cast(Any, stuck), cast(Any, stuck)), 0.02, 0.1)
    async with asyncio.timeout(2):
        await stuck.aborted.wait()
    assert len(stuck.written) == 1
    stream.stop_timer()


async def test_nothing_is_written_behind_the_end_and_a_reader_that_does_not_take_it_is_let_go() -> None:
    stuck = Stuck()
    stream = ResponseStream(cast(Any, Answer(stuck)), ReaderConnection(cast(Any, stuck), cast(Any, stuck)), 0.02, 0.1)
    ending = asyncio.create_task(stream.close(b"data: x\n\n"))
    async with asyncio.timeout(2):
        await asyncio.wait((ending,))
    assert isinstance(ending.exception(), ConnectionResetError)
    assert stuck.written == [b"data: x\n\n0\r\n\r\n"], "in one write"
    await stream.close()  # once is enough
    assert len(stuck.written) == 1
    stream.stop_timer()
