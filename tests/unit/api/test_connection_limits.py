"""Which connections are closed to keep the bounds, and which are not."""

import asyncio
from typing import Any, cast

import structlog
from aiohttp import web
from structlog.testing import capture_logs

from chatbot.api.server.connection_limits import LOG_INTERVAL_S, BoundedProtocol, ConnectionLimits, Connections
from chatbot.observability.metrics import Metrics
from chatbot.runtime.descriptors import RESERVED_DESCRIPTORS, connections_within

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


class FakeTransport:
    """A transport whose client takes what the test says."""

    def __init__(self) -> None:
        self.unread = 0
        self.aborted = False
        self.closed = False
        self.high: int | None = None

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, _name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.unread += len(data)

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted


class LimitedConnections:
    """Connections, and the clock that their log lines go by."""

    def __init__(self, connections_max: int = 10, unread_max_bytes: int = 1_000, write_timeout_s: float = 60.0) -> None:
        self.now_s = 0.0
        self.metrics = Metrics("test")
        limits = ConnectionLimits(connections_max, write_timeout_s, unread_max_bytes)
        logger: structlog.stdlib.BoundLogger = structlog.get_logger("api")
        self.connections = Connections(limits, self.metrics, logger, lambda _: REFUSAL, lambda: self.now_s)

    async def connect(self) -> tuple[BoundedProtocol, FakeTransport]:
        async def answer(_: web.BaseRequest) -> web.StreamResponse:
            raise AssertionError("nothing is asked")

        protocol = BoundedProtocol(web.Server(answer), self.connections, loop=asyncio.get_running_loop())
        wire = FakeTransport()
        protocol.connection_made(cast(Any, wire))
        return protocol, wire

    def closed(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("chatbot_connections_closed_total", {"reason": reason}) or 0.0


async def leave(*protocols: BoundedProtocol) -> None:
    for one in protocols:
        one.connection_lost(None)
    await asyncio.sleep(0)


def fall_behind(protocol: BoundedProtocol, wire: FakeTransport, unread: int) -> None:
    wire.unread = unread
    protocol.pause_writing()


async def test_those_behind_longest_are_cut_until_the_others_fit() -> None:
    bench = LimitedConnections(unread_max_bytes=1_000)
    first, second, third = [await bench.connect() for _ in range(3)]
    assert first[1].high == 0, "the writer waits until everything is taken"
    for one in (first, second):
        fall_behind(*one, 400)
    assert bench.connections.unread_bytes == 800
    fall_behind(*third, 500)
    assert [one[1].aborted for one in (first, second, third)] == [True, False, False]
    assert bench.connections.unread_bytes == 900
    second[1].unread = 0
    second[0].resume_writing()
    assert bench.connections.unread_bytes == 500
    assert bench.closed("unread") == 1
    await leave(first[0], second[0], third[0])
    assert (bench.connections.unread_bytes, bench.connections.count) == (0, 0)


async def test_an_answer_that_alone_is_too_large_is_cut_itself() -> None:
    bench = LimitedConnections(unread_max_bytes=1_000)
    one, wire = await bench.connect()
    one.count_held_bytes(2_000)
    fall_behind(one, wire, 10)
    assert wire.aborted
    assert bench.connections.unread_bytes == 0
    await leave(one)


async def test_who_takes_a_little_is_waited_for_and_who_takes_nothing_is_not() -> None:
    bench = LimitedConnections(unread_max_bytes=10**9, write_timeout_s=0.05)
    slow, stuck = await bench.connect(), await bench.connect()
    fall_behind(*slow, 1_000_000)
    fall_behind(*stuck, 1_000_000)
    async with asyncio.timeout(5):
        while not stuck[1].aborted:
            slow[1].unread -= 1
            await asyncio.sleep(0.005)
    assert not slow[1].aborted
    assert bench.closed("write_timeout") == 1
    async with asyncio.timeout(5):
        while not slow[1].aborted:
            await asyncio.sleep(0.005)
    await leave(slow[0], stuck[0])


async def test_what_aiohttp_has_closed_is_still_cut_when_nobody_takes_its_rest() -> None:
    bench = LimitedConnections(write_timeout_s=0.02)
    one, wire = await bench.connect()
    fall_behind(one, wire, 100)
    one.force_close()
    async with asyncio.timeout(5):
        while not wire.aborted:
            await asyncio.sleep(0.005)
    await leave(one)


async def test_at_the_cap_the_oldest_idle_goes_and_without_any_the_newest_is_refused() -> None:
    bench = LimitedConnections(connections_max=3)
    one, two, three = [await bench.connect() for _ in range(3)]
    bench.connections.mark_busy(one[0])
    four = await bench.connect()
    assert [pair[1].closed for pair in (one, two, three, four)] == [False, True, False, False]
    bench.connections.mark_idle(one[0])  # its answer has ended: it is the youngest of the idle now
    five = await bench.connect()
    assert [pair[1].closed for pair in (one, three, four, five)] == [False, True, False, False]
    for pair in (one, four, five):
        bench.connections.mark_busy(pair[0])
    six = await bench.connect()
    assert six[1].closed
    assert six[1].unread == len(REFUSAL), "it is told why"
    assert (bench.closed("idle"), bench.closed("refused")) == (2, 1)
    await leave(*(pair[0] for pair in (one, two, three, four, five, six)))
    assert bench.metrics.registry.get_sample_value("chatbot_open_connections") == 0


async def test_many_closings_are_one_log_line_a_minute() -> None:
    bench = LimitedConnections(connections_max=1)
    made = []
    with capture_logs() as lines:
        for _ in range(50):
            made.append((await bench.connect())[0])
        bench.now_s = LOG_INTERVAL_S
        made.append((await bench.connect())[0])
    assert [line["closed"] for line in lines] == [1, 49]
    await leave(*made)


def test_connections_get_what_the_reserve_leaves_and_half_of_very_few() -> None:
    assert connections_within(24_512) == 24_000
    assert connections_within(1_024) == 1_024 - RESERVED_DESCRIPTORS
    assert connections_within(80) == 40
    assert connections_within(1) == 1
