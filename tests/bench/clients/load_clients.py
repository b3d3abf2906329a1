"""The load: clients that ask again as soon as they are answered, as thin as they can be, and what they measured.

It shares a core with the fake model, so a client is a protocol that looks at nothing but its answer's end while it
comes. Each answer is then judged, those of the warm-up, too. Text is counted, not frames.
"""

import asyncio
import gc
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, cast

from tests.bench.clients.raw_clients import address
from tests.bench.clients.serving_cases import CONTENT, Call
from tests.bench.servers.fake_model import LAST_CHUNK

TURNS_EACH = 50  # turns in a session before its client goes on with another
GRACE_S, CLOSE_S = 30.0, 5.0  # at the end: for the answers that are under way, and for connections to close
LOOK_S = 0.1  # between looks at whether a first answer has come, where none has in the time that was given
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
FIRST_TEXT = b'"content":" '  # each of the fake model's words begins with a space


class LoadFailed(Exception):
    """An answer was wrong, or did not come."""


@dataclass(frozen=True)
class LoadPlan:
    """How long to ask. `spread_s`: the clients begin one after the other within it, so that they are out of step."""

    seconds: float
    warmup_s: float = 1.0
    spread_s: float = 0.0


class Cpu(NamedTuple):
    """Seconds of CPU that the processes have used so far."""

    server_s: float
    model_s: float
    store_s: float = 0.0  # of a database server's processes


@dataclass
class Measured:
    """What came and was used between the samples. Times are one an answer; `text_bytes` counts unfinished ones, too."""

    server_cpu_s: float = 0.0
    model_cpu_s: float = 0.0
    store_cpu_s: float = 0.0
    seconds: float = 0.0
    driver_cpu_s: float = 0.0
    text_bytes: int = 0
    took_s: list[float] = field(default_factory=list)
    first_text_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)  # between a reply's pieces of text


class Load:
    """Runs a plan. `sample` is called at both ends of the measured time. Clients are dealt to `urls` in turn, or, if
    `mixed`, have a connection to each and draw one for each request.
    """

    def __init__(
        self, urls: Sequence[str], call: Call, plan: LoadPlan, sample: Callable[[], Cpu], *, mixed: bool = False
    ) -> None:
        self.call = call
        self.stopping = False
        self.seen = Measured()
        self._urls, self._is_mixed = urls, mixed
        self._plan = plan
        self._sample = sample
        self._clients: list[Client] = []
        self._asking = 0
        self._ended = asyncio.Event()  # all clients are through, or one has met a fault
        self._fault = ""

    async def run(self) -> Measured:
        """Raises LoadFailed with the first fault."""
        try:
            await self._connect()
            await self._wait(self._plan.spread_s + self._plan.warmup_s)
            await self._measure()
            self.stopping = True
            await self._wait(GRACE_S)
            if self._asking:
                raise LoadFailed(f"{self._asking} answers did not come in {GRACE_S:.0f} s")
        finally:
            gc.unfreeze()
            await self._leave()
        return self.seen

    async def _measure(self) -> None:
        seen = self.seen
        seen.took_s.clear()
        seen.first_text_s.clear()
        seen.gaps_s.clear()
        began_s, driver_s, text_bytes = time.perf_counter(), time.process_time(), self._text_bytes()
        before = self._sample()
        await self._wait(self._plan.seconds)
        late_s = began_s + self._plan.seconds + GRACE_S
        while not (seen.first_text_s if self.call.text else seen.took_s) and time.perf_counter() < late_s:
            await self._wait(LOOK_S)
        seen.text_bytes = self._text_bytes() - text_bytes
        after = self._sample()
        seen.seconds, seen.driver_cpu_s = time.perf_counter() - began_s, time.process_time() - driver_s
        seen.server_cpu_s, seen.model_cpu_s = after.server_s - before.server_s, after.model_s - before.model_s
        seen.store_cpu_s = after.store_s - before.store_s

    def answered(self, took_s: float, first_text_s: float) -> None:
        if not self.stopping:
            self.seen.took_s.append(took_s)
            if first_text_s:
                self.seen.first_text_s.append(first_text_s)

    def waited(self, gap_s: float) -> None:
        if not self.stopping:
            self.seen.gaps_s.append(gap_s)

    def left(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._ended.set()

    def failed(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._ended.set()

    async def _connect(self) -> None:
        loop, requests = asyncio.get_running_loop(), self.call.requests
        gc.collect()
        gc.freeze()  # what is there stays: the collector need not look at it while times are taken
        self._asking = len(requests)
        lines: list[list[Client]] = [[] for _ in requests]  # each client's connections
        for number, (own, line) in enumerate(zip(requests, lines, strict=True)):
            for url in self._urls if self._is_mixed else [self._urls[number % len(self._urls)]]:
                _, client = await loop.create_connection(partial(Client, self, own, line), *address(url))
                line.append(client)
            self._clients += line
        for number, line in enumerate(lines):
            loop.call_later(self._plan.spread_s * number / len(requests), random.choice(line).ask)

    async def _leave(self) -> None:
        for client in self._clients:
            client.leave()
        async with asyncio.timeout(CLOSE_S):
            for client in self._clients:
                await client.lost.wait()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return
        if self._fault:
            raise LoadFailed(self._fault)

    def _text_bytes(self) -> int:
        return sum(client.text_bytes() for client in self._clients) if self.call.text else 0


class Client(asyncio.Protocol):
    """One connection. `line` has all of the same client, of which one at a time asks."""

    def __init__(self, load: Load, requests: Sequence[bytes], line: "Sequence[Client]") -> None:
        self.lost = asyncio.Event()
        self._load = load
        self._requests = requests
        self._line = line
        self._streamed = bool(load.call.text)
        self._turns = 0
        self._received = bytearray()
        self._body_at = 0  # 0: the head has not come
        self._length: int | None = None  # None: the body is chunked
        self._asked_s = 0.0
        self._first_text_s = 0.0
        self._text_s = 0.0  # when the last text came
        self._busy = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        if self._busy:
            self._busy = False
            self._load.failed(f"the connection ended within an answer: {exc!r}, after {bytes(self._received[-200:])!r}")

    def ask(self) -> None:
        if self._transport.is_closing():
            return
        self._received = bytearray()
        self._body_at, self._length, self._first_text_s, self._busy = 0, None, 0.0, True
        self._asked_s = time.perf_counter()
        self._transport.write(self._requests[self._turns // TURNS_EACH % len(self._requests)])

    def leave(self) -> None:
        self._busy = False
        self._transport.close()

    def text_bytes(self) -> int:
        """How much text has come in all."""
        under_way = sum(map(len, CONTENT.findall(self._body()))) if self._busy else 0
        return self._turns * len(self._load.call.text) + under_way

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._body_at and not self._read_head():
            return
        if self._streamed:
            self._note_text(data)
        if self._length is None:
            if received.endswith(LAST_CHUNK, self._body_at):  # a head can end like that, too
                self._end()
        elif len(received) >= self._body_at + self._length:
            self._end()

    def _note_text(self, data: bytes) -> None:
        """When text came; a frame that is cut by a read counts with the next one."""
        now_s = time.perf_counter()
        if not self._first_text_s:
            if FIRST_TEXT in self._received:
                self._first_text_s, self._text_s = now_s - self._asked_s, now_s
        elif FIRST_TEXT in data:
            self._load.waited(now_s - self._text_s)
            self._text_s = now_s

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body_at = end + 4
        found = CONTENT_LENGTH.search(self._received, 0, end + 2)
        self._length = int(found[1]) if found else None
        return True

    def _end(self) -> None:
        took_s = time.perf_counter() - self._asked_s
        fault = self._load.call.fault(int(self._received[9:12]), self._body())
        self._busy = False
        if fault:
            self._load.failed(fault)
            return
        self._turns += 1
        self._load.answered(took_s, self._first_text_s)
        if self._load.stopping:
            self._load.left()
        else:
            random.choice(self._line).ask()

    def _body(self) -> bytes:
        """Its chunks put together, as far as they are whole."""
        if not self._body_at:
            return b""
        if self._length is not None:
            return bytes(self._received[self._body_at :])
        pieces, at, received = [], self._body_at, self._received
        while (line_end := received.find(b"\r\n", at)) > 0 and (size := int(received[at:line_end], 16)):
            at = line_end + 2 + size + 2
            if at > len(received):
                break
            pieces.append(received[line_end + 2 : at - 2])
        return b"".join(pieces)
