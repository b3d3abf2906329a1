"""Many replies are read together on a beat, over real sockets, with either protocol and either event loop."""

import asyncio
import errno
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from chatbot.llm.http.http_connection import ConnectionLost, HttpConnection
from chatbot.llm.http.read_coalescer import LASTING_S, MEASURED_INTERVALS, READ_MAX_BYTES, SOCKETS_MIN, ReadCoalescer
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    ChatMessage,
    Finish,
    LlmFailed,
    TextSink,
)
from chatbot.llm.providers.midm_provider import MidmProvider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from events.catalogue import Parameters
from tests.support.programs.certificates import make_certificates

Run = Callable[[Coroutine[Any, Any, None]], None]

BEAT_S = 0.25
A_LONG_TIME_S = 60.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BEGINNINGS = {"midm": b'{"type":"start"}', "openai": b'{"choices":[{"delta":{"role":"assistant","content":""}}]}'}
PIECES = {"midm": b'{"type":"chunk","content":"%b"}', "openai": b'{"choices":[{"delta":{"content":"%b"}}]}'}
ENDINGS = {"midm": b'{"type":"complete"}', "openai": b'{"choices":[{"delta":{},"finish_reason":"stop"}]}'}
WORDS = [b" %d" % number for number in range(40)]
TEXT = b"".join(WORDS).decode()


async def test_few_fast_replies_beside_silent_ones_are_heard_at_once() -> None:
    """Unit: rounds would find few, and end at once, again and again."""
    coalescer = ReadCoalescer(0.01)
    coalescer.active_replies = SOCKETS_MIN
    few = [HttpConnection(coalescer) for _ in range(SOCKETS_MIN - 1)]
    reads = 10 * MEASURED_INTERVALS * SOCKETS_MIN
    assert not [number for number in range(reads) if coalescer.note_read(few[number % len(few)])]


def event(data: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


class Server:
    """Writes a word every `gap_s`; never ends where `endless`; breaks off after `cut_after` words (None: does not)."""

    def __init__(self, protocol: str) -> None:
        self.gap_s = 0.005
        self.endless = False
        self.cut_after: int | None = None
        self.accepted = 0
        self.left = 0  # clients that hung up
        self.protocol = protocol

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(one[16:]) for one in head.split(b"\r\n") if one[:15] == b"Content-Length:")
                await reader.readexactly(length)
                await self.answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for _ in range(3):  # signs of life without text, as of a model that thinks
            writer.write(event(BEGINNINGS[self.protocol]))
            await asyncio.sleep(self.gap_s)
        for number, word in enumerate(chain(WORDS, repeat(b" on") if self.endless else ())):
            if number == self.cut_after:
                raise ConnectionAbortedError
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(event(PIECES[self.protocol] % word))
            await writer.drain()
            await asyncio.sleep(self.gap_s)
        writer.write(event(ENDINGS[self.protocol]) + event(b"[DONE]") + b"0\r\n\r\n")


class RunningCall:
    """One reply: what was heard."""

    def __init__(self, provider: MidmProvider | OpenAiProvider) -> None:
        self.pieces: list[str] = []
        stream = provider.stream((ChatMessage("user", "hi"),), Parameters(), TextSink(self.on_text))
        self.task: asyncio.Task[Finish] = asyncio.create_task(stream)

    def on_text(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)


@asynccontextmanager
async def model(
    protocol: str, read_coalesce_max_s: float = BEAT_S, *, ca_file: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, MidmProvider | OpenAiProvider]]:
    """A server, and a provider with an empty crowd. No test waits for a beat of A_LONG_TIME_S."""
    server = Server(protocol)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    options = LlmOptions(
        server_url=url,
        model="m",
        ca_file=ca_file,
        read_coalesce_max_s=read_coalesce_max_s,
    )
    provider = MidmProvider(options) if protocol == "midm" else OpenAiProvider(options)
    try:
        async with asyncio.timeout(20):
            yield server, provider
    finally:
        await provider.close()
        listener.close()
        await asyncio.sleep(0.05)  # the server's tasks see it and end


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def heard(asked: list[RunningCall]) -> None:
    while not all(one.pieces for one in asked):
        await asyncio.sleep(0.001)


async def stop(asked: list[RunningCall]) -> None:
    for one in asked:
        one.task.cancel()
    await asyncio.wait([one.task for one in asked])


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "asyncio":
        return asyncio.run
    loop: Run = pytest.importorskip("uvloop").run
    return loop


@pytest.fixture(params=["midm", "openai"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_few_replies_are_heard_word_by_word(run: Run, protocol: str) -> None:
    async def main() -> None:
        async with model(protocol) as (_, provider):
            asked = [RunningCall(provider) for _ in range(SOCKETS_MIN - 1)]
            await asyncio.gather(*(one.task for one in asked))
            assert [len(one.pieces) for one in asked] == [len(WORDS)] * len(asked)

    run(main())


@pytest.mark.parametrize("read_coalesce_max_s", [0.0, BEAT_S])
def test_many_replies_are_read_together_and_whole_unless_there_is_no_beat(
    run: Run, protocol: str, read_coalesce_max_s: float
) -> None:
    async def main() -> None:
        async with model(protocol, read_coalesce_max_s) as (server, provider):
            asked = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            finished = await asyncio.gather(*(one.task for one in asked))
            assert ["".join(one.pieces) for one in asked] == [TEXT] * len(asked)
            assert {finish.reason for finish in finished} == {"stop"}
            heard = max(len(one.pieces) for one in asked)
            assert heard < len(WORDS) / 2 if read_coalesce_max_s else heard == len(WORDS)
            again = RunningCall(provider)  # on a connection that had its part in the crowd
            await again.task
            assert server.accepted == len(asked)
            assert len(again.pieces) == len(WORDS)

    run(main())


def test_the_first_word_of_a_reply_waits_for_no_beat(run: Run, protocol: str) -> None:
    async def main() -> None:
        async with model(protocol, A_LONG_TIME_S) as (server, provider):
            server.endless = True
            crowd = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            await heard(crowd)
            late = RunningCall(provider)
            await heard([late])
            await asyncio.sleep(4 * LASTING_S)
            words = len(late.pieces)
            await asyncio.sleep(20 * server.gap_s)
            assert len(late.pieces) == words  # as one of the crowd from then on
            await stop([*crowd, late])

    run(main())


def test_a_cancel_reaches_the_server_at_once_also_between_two_beats(run: Run, protocol: str) -> None:
    async def main() -> None:
        async with model(protocol, A_LONG_TIME_S) as (server, provider):
            server.endless = True
            crowd = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            await heard(crowd)
            await asyncio.sleep(20 * server.gap_s)  # all are held by now
            await stop(crowd)
            while server.left < len(crowd):
                await asyncio.sleep(0.001)
            server.endless = False
            alone = RunningCall(provider)  # those that have left are no crowd
            await alone.task
            assert len(alone.pieces) == len(WORDS)

    run(main())


def test_what_came_before_a_cut_is_heard(run: Run, protocol: str) -> None:
    async def main() -> None:
        async with model(protocol) as (server, provider):
            server.cut_after = 30
            asked = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            failures = await asyncio.gather(*(one.task for one in asked), return_exceptions=True)
            assert all(isinstance(failure, LlmFailed) for failure in failures)
            assert {"".join(one.pieces) for one in asked} == {b"".join(WORDS[:30]).decode()}
            assert max(len(one.pieces) for one in asked) < 20
            server.cut_after = None
            alone = RunningCall(provider)
            await alone.task
            assert len(alone.pieces) == len(WORDS)

    run(main())


def test_over_tls_many_replies_are_read_together_too(run: Run, protocol: str, tmp_path: Path) -> None:
    certificate, tls = make_certificates(tmp_path, "127.0.0.1")

    async def main() -> None:
        async with model(protocol, ca_file=str(certificate), tls=tls) as (_, provider):
            asked = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            await asyncio.gather(*(one.task for one in asked))
            assert ["".join(one.pieces) for one in asked] == [TEXT] * len(asked)
            assert max(len(one.pieces) for one in asked) < len(WORDS) / 2

    run(main())


def test_no_descriptor_is_left_after_replies_that_end_are_cut_or_cancelled(run: Run, protocol: str) -> None:
    async def all_kinds() -> None:
        before = open_descriptors()
        async with model(protocol, 0.02) as (server, provider):
            for cut_after, endless in ((None, False), (10, False), (None, True)):
                server.cut_after, server.endless = cut_after, endless
                asked = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
                if not endless:
                    await asyncio.gather(*(one.task for one in asked), return_exceptions=True)
            await heard(asked)
            async with asyncio.timeout(20):
                while open_descriptors() < before + 5 * len(asked) // 2:  # both ends, and nearly all duplicates
                    await asyncio.sleep(0.01)
            await stop(asked)

    async def main() -> None:
        await all_kinds()
        before = open_descriptors()  # the loop keeps some of its own from the first use on
        await all_kinds()
        assert open_descriptors() == before

    run(main())


def test_a_process_without_free_descriptors_reads_on(run: Run, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        async with model(protocol) as (_, provider):
            monkeypatch.setattr("os.dup", fail)
            asked = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            await asyncio.gather(*(one.task for one in asked))
            assert ["".join(one.pieces) for one in asked] == [TEXT] * len(asked)

    run(main())


def test_a_reset_is_no_end_of_a_body_without_a_length(run: Run) -> None:
    """Unit: the read that fails tells of the reset, a second one would find a plain end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nonce upon")
        for _ in range(MEASURED_INTERVALS - 1):
            await asyncio.sleep(2 * LASTING_S / MEASURED_INTERVALS)
            writer.write(b" once")
        await asyncio.sleep(LASTING_S)  # read by the loop, from now on by the coalescer
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def main() -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        coalescer = ReadCoalescer(BEAT_S, 1)
        address = listener.sockets[0].getsockname()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: HttpConnection(coalescer), address[0], address[1]
        )
        before = open_descriptors()
        heard: list[bytes] = []

        def take(data: bytes) -> bool:
            connection.allow_coalescing()
            heard.append(data)
            return False

        async with asyncio.timeout(10):
            await connection.send_request(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionLost, match="reset"):
                await connection.read_body(take)
        assert b"".join(heard) == b"once upon" + (MEASURED_INTERVALS - 1) * b" once"
        assert not connection.is_complete
        await asyncio.sleep(0.05)
        assert open_descriptors() < before
        assert coalescer.active_replies == 0
        listener.close()

    run(main())


class FakeConnection:
    """One end of a pair of sockets, as its transport. Fails at its first data where `fails`."""

    def __init__(self, coalescer: ReadCoalescer, *, fails: bool = False) -> None:
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.reads: list[int] = []
        self.resumed = 0
        self.fails = fails
        self.descriptor = coalescer.add(self, self)  # type: ignore[arg-type]  # a transport as far as it is asked

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self.sock if name == "socket" else None

    def data_received(self, data: bytes) -> None:
        self.reads.append(len(data))
        if self.fails:
            self.fails = False
            raise RuntimeError("a fault of ours")

    def resume(self) -> None:
        self.resumed += 1

    def fail(self, reason: str) -> None:
        raise AssertionError(reason)


async def test_a_connection_with_much_data_is_read_in_bounded_pieces() -> None:
    """Unit: beside a slow one, and one that fails, which stops none of the others."""
    coalescer = ReadCoalescer(0.01, 1)
    coalescer.active_replies = 3
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    fast, slow, odd = FakeConnection(coalescer), FakeConnection(coalescer), FakeConnection(coalescer, fails=True)
    fast.peer.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            fast.peer.send(b"x" * 1024)
    slow.peer.send(b"x" * 10)
    odd.peer.send(b"x" * 10)
    while not (fast.reads and slow.reads and odd.reads):
        await asyncio.sleep(0)
    assert (slow.reads, odd.reads) == ([10], [10])
    assert fast.reads == [READ_MAX_BYTES]
    assert len(faults) == 1
    odd.peer.close()
    while not odd.resumed:  # its transport is to meet the end
        await asyncio.sleep(0.001)
    assert not slow.resumed
    for one in (fast, slow, odd):
        assert one.descriptor is not None
        coalescer.remove(one.descriptor)
        one.sock.close()
        one.peer.close()


def test_many_replies_that_come_slowly_are_heard_word_by_word(run: Run) -> None:
    async def main() -> None:
        async with model("midm", 0.001) as (server, provider):
            server.gap_s = 0.05
            asked = [RunningCall(provider) for _ in range(2 * SOCKETS_MIN)]
            await heard(asked)
            before = open_descriptors()
            await asyncio.sleep(5 * server.gap_s)
            assert open_descriptors() == before  # none has joined
            await asyncio.gather(*(one.task for one in asked))
            assert [len(one.pieces) for one in asked] == [len(WORDS)] * len(asked)

    run(main())


async def test_rounds_begin_with_frequent_reads_and_end_when_they_find_little() -> None:
    """Unit: the event loop reads again then, until reads are frequent again."""
    coalescer = ReadCoalescer(0.01)
    coalescer.active_replies = SOCKETS_MIN
    readers = [HttpConnection(coalescer) for _ in range(SOCKETS_MIN)]

    async def note_reads(pause_s: float) -> list[bool]:
        answers = []
        for _ in range(MEASURED_INTERVALS):
            for one in readers:
                answers.append(coalescer.note_read(one))
                await asyncio.sleep(pause_s)
        return answers

    for _ in range(2):
        assert not any(await note_reads(0.005))  # two in each interval
        assert (await note_reads(0.0)).index(True) == MEASURED_INTERVALS * SOCKETS_MIN - 1
        connections = [FakeConnection(coalescer) for _ in range(SOCKETS_MIN)]
        for _ in range(2 * MEASURED_INTERVALS):
            for one in connections[1:]:  # fewer than it took to begin: rounds go on
                one.peer.send(b"x")
            await asyncio.sleep(0.01)
        assert not any(one.resumed for one in connections)
        while not all(one.resumed for one in connections):
            connections[0].peer.send(b"x")
            await asyncio.sleep(0.01)
        for one in connections:
            assert one.descriptor is not None
            coalescer.remove(one.descriptor)
            one.sock.close()
            one.peer.close()
