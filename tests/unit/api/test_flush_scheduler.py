"""Each tick of the event loop ends with one round of writes; a reader that is behind waits only for its own socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from chatbot.api.streaming.response_stream import FlushScheduler, News, Progress
from chatbot.sessions.feeds.channels import Signal


class Socket:
    """Takes what it is given, and has room for more while the test says so."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.has_left = False
        self.free = asyncio.Event()
        self.free.set()

    def push(self, frames: bytes) -> bool:
        if self.has_left:
            raise ConnectionResetError
        self.taken.append(frames)
        return self.free.is_set()

    async def drain(self) -> None:
        await self.free.wait()


class Text:
    """What there is to read, and how far it was read."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.new = b""
        self.is_over = False

    def take_news(self) -> News:
        new, self.new = self.new, b""
        return new or (Progress.OVER if self.is_over else b"")

    def grow(self, piece: bytes) -> None:
        self.new += piece
        self.signal.notify()

    def end(self) -> None:
        self.is_over = True
        self.signal.notify()


def count_steps(task: asyncio.Task[None]) -> Callable[[], int]:
    """How often `task` is woken from now on: its await is looked at, which is another one after each step."""
    waits = task.get_coro().cr_await  # type: ignore[union-attr]  # a coroutine of ours
    return lambda: int(task.get_coro().cr_await is not waits)  # type: ignore[union-attr]


@asynccontextmanager
async def streaming(socket: Socket, text: Text) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(FlushScheduler().stream_updates(socket, text.take_news, text.signal))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert not text.signal.listeners


async def test_what_one_tick_of_the_loop_brings_is_written_as_one_without_waking_the_task() -> None:
    socket, text = Socket(), Text()
    async with streaming(socket, text) as task:
        steps = count_steps(task)
        text.grow(b"a")
        text.grow(b"b")
        assert socket.taken == []
        await asyncio.sleep(0)
        assert socket.taken == [b"ab"]
        text.grow(b"c")
        await asyncio.sleep(0)
        assert socket.taken == [b"ab", b"c"]
        assert steps() == 0


async def test_all_readers_are_written_to_in_one_round() -> None:
    flush_scheduler, signal = FlushScheduler(), Signal()
    sockets, texts = [Socket() for _ in range(3)], [Text() for _ in range(3)]
    tasks = [
        asyncio.create_task(flush_scheduler.stream_updates(sockets[n], texts[n].take_news, signal)) for n in range(3)
    ]
    await asyncio.sleep(0)
    for text in texts:
        text.new = b"x"
    signal.notify()
    signal.notify()
    assert len(flush_scheduler._due) == 3
    await asyncio.sleep(0)
    assert [socket.taken for socket in sockets] == [[b"x"]] * 3
    assert not flush_scheduler._due
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_what_was_there_before_is_written_first() -> None:
    socket, text = Socket(), Text()
    text.new = b"early"
    async with streaming(socket, text):
        assert socket.taken == [b"early"]


async def test_a_reader_that_is_behind_gets_all_as_one_when_it_has_room() -> None:
    socket, text = Socket(), Text()
    async with streaming(socket, text):
        socket.free.clear()
        for piece in (b"a", b"b", b"c", b"d"):
            text.grow(piece)
            await asyncio.sleep(0)
        assert socket.taken == [b"a"]
        socket.free.set()
        await asyncio.sleep(0.01)
        assert socket.taken == [b"a", b"bcd"]


async def test_it_ends_when_there_is_nothing_more_to_look_for() -> None:
    socket, text = Socket(), Text()
    async with streaming(socket, text) as task:
        text.end()
        async with asyncio.timeout(1):
            await task
        text.grow(b"late")
        await asyncio.sleep(0)
        assert socket.taken == []


async def test_an_end_that_comes_while_the_reader_is_behind_is_not_missed() -> None:
    socket, text = Socket(), Text()
    async with streaming(socket, text) as task:
        socket.free.clear()
        text.grow(b"a")
        await asyncio.sleep(0)
        text.end()
        socket.free.set()
        async with asyncio.timeout(1):
            await task


async def test_a_reader_that_has_left_does_not_disturb_the_others() -> None:
    socket, other, text = Socket(), Socket(), Text()
    seen = Text()
    seen.signal = text.signal
    socket.has_left = True
    async with streaming(socket, text) as task, streaming(other, seen):
        seen.new = b"a"
        text.grow(b"a")
        await asyncio.sleep(0)
        assert other.taken == [b"a"]
        with pytest.raises(ConnectionResetError):
            await task


async def test_a_fault_in_looking_is_raised_in_the_readers_own_task() -> None:
    signal, armed = Signal(), False

    def look() -> bytes:
        if armed:
            raise ZeroDivisionError
        return b""

    task = asyncio.create_task(FlushScheduler().stream_updates(Socket(), look, signal))
    await asyncio.sleep(0)
    armed = True
    signal.notify()
    with pytest.raises(ZeroDivisionError):
        await task
