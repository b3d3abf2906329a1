"""Crowds of readers, chats at a pace beside them, and what a service says of itself meanwhile."""

import asyncio
import json
import re
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.clients.raw_clients import Caller, FeedReader, SlowReader, address
from tests.bench.harness.bench_processes import Child
from tests.bench.servers.fake_model import Connection, FakeModel, Shape, words

OPEN_AT_ONCE = 100  # connections being opened side by side
BEGIN_TIMEOUT_S = 120.0
FILES_SPARE = 200  # descriptors that are no reader's


class Model:
    """The fake model inside the driver's process. A whole reply comes at once, a streamed one with its delays."""

    def __init__(self, tokens: int, delay_ms: float) -> None:
        self.tokens = tokens
        self.text = "".join(words(tokens))
        self._model = FakeModel("midm", Shape(tokens, delay_ms))

    async def listen(self) -> str:
        """The URL to ask it under, until the loop ends."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self._model), "127.0.0.1", 0, backlog=1024)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def allow_files(readers: int) -> None:
    """Let this process, and the servers that it starts, have a descriptor for each reader. Raises SystemExit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = readers + FILES_SPARE
    if most != resource.RLIM_INFINITY and most < wanted:
        raise SystemExit(f"{readers} readers need {wanted} descriptors, and this system allows {most}: fewer --readers")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def gather_crowd(url: str, ids: Sequence[str], count: int) -> list[FeedReader]:
    """`count` readers, spread over the sessions, once each has been sent its first frame."""
    loop, began = asyncio.get_running_loop(), asyncio.Event()
    left = count

    def one_began() -> None:
        nonlocal left
        left -= 1
        if not left:
            began.set()

    readers: list[FeedReader] = []
    for first in range(0, count, OPEN_AT_ONCE):
        numbers = range(first, min(first + OPEN_AT_ONCE, count))
        made = [FeedReader(ids[number % len(ids)], one_began) for number in numbers]
        await asyncio.gather(*(loop.create_connection(lambda one=one: one, *address(url)) for one in made))  # type: ignore[misc]
        readers += made
    async with asyncio.timeout(BEGIN_TIMEOUT_S):
        await began.wait()
    return readers


@contextmanager
def trickling(slow: Sequence[SlowReader]) -> Iterator[None]:
    """Each of them takes its bytes once a second."""

    async def trickle() -> None:
        while True:
            await asyncio.sleep(1)
            for one in slow:
                one.trickle()

    task = asyncio.create_task(trickle())
    try:
        yield
    finally:
        task.cancel()


class Service:
    """The service under load: its process, and what a client may ask it."""

    def __init__(self, child: Child, url: str, callers: list[Caller]) -> None:
        self.child = child
        self.url = url
        self._callers: asyncio.LifoQueue[Caller] = asyncio.LifoQueue()
        self._connections = len(callers)
        for caller in callers:
            self._callers.put_nowait(caller)

    @classmethod
    async def reach(cls, child: Child, url: str, connections: int = 16) -> "Service":
        return cls(child, url, [await Caller.open(url) for _ in range(connections)])

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that it answers. Waits for a free connection."""
        return json.loads(await self._read(method, path, body))

    async def _read(self, method: str, path: str, body: object = None) -> bytes:
        caller = await self._callers.get()
        try:
            return await caller.ask(method, path, body)
        finally:
            self._callers.put_nowait(caller)

    async def sessions(self, count: int) -> list[str]:
        """The ids of so many new ones."""
        made: list[str] = []
        while len(made) < count:
            some = min(self._connections, count - len(made))
            answers = await asyncio.gather(*(self.ask("POST", "/api/sessions", {}) for _ in range(some)))
            made += [answer["session_id"] for answer in answers]
        return made

    async def chat(self, session_id: str, message: str = "hello") -> float:
        """Seconds that a turn took."""
        began_s = time.perf_counter()
        await self.ask("POST", "/api/chat", {"session_id": session_id, "message": message})
        return time.perf_counter() - began_s

    async def chat_all(self, ids: Sequence[str], message: str = "hello") -> None:
        """A turn in each session, as fast as it goes."""
        some = self._connections
        for first in range(0, len(ids), some):
            await asyncio.gather(*(self.chat(one, message) for one in ids[first : first + some]))

    async def chat_paced(self, ids: Sequence[str], rate: float, seconds: float) -> list[float]:
        """Latencies of turns that begin `rate` times a second, whatever became of those before, in turn in `ids`."""
        loop, turns = asyncio.get_running_loop(), []
        began_s = loop.time()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began_s + number / rate - loop.time()))
            turns.append(asyncio.create_task(self.chat(ids[number % len(ids)])))
        return list(await asyncio.gather(*turns))

    async def metrics(self) -> str:
        """All that the service counts."""
        return (await self._read("GET", "/metrics")).decode()

    async def gauge(self, name: str) -> float:
        """The value of one metric, named with its labels."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", await self.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def settled(self, name: str, at_most: float, timeout_s: float = 60.0) -> float:
        """The metric's value once it is `at_most`, or after the time."""
        deadline_s = time.monotonic() + timeout_s
        while (value := await self.gauge(name)) > at_most and time.monotonic() < deadline_s:
            await asyncio.sleep(0.25)
        return value

    def descriptors(self) -> int:
        """Files and sockets that the process has open."""
        return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))

    def close(self) -> None:
        while not self._callers.empty():
            self._callers.get_nowait().close()
