"""Chat and streams at a moderate pace: begun by the clock, whatever became of those before."""

import asyncio
import itertools
import re
import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.clients.raw_clients import Caller
from tests.bench.clients.reader_crowd import Service
from tests.bench.harness import tables

CHAT_SESSIONS, STREAM_SESSIONS = 64, 8
CALIBRATE_S, CALIBRATE_RATE = 3.0, 30.0
RATE_MIN, RATE_MAX = 20.0, 300.0  # turns a second: fewer would show no p99, more would make the driver the bottleneck
_bucket = re.compile(r'^chatbot_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass
class Measured:
    """What a time of load showed. `late_max_s` is the least bound of the loop's lag that held all the time."""

    chats_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    refused: int = 0
    late_max_s: float = 0.0
    cpu_share: float = 0.0

    def figures(self) -> dict[str, Any]:
        return {
            "chat_p50_ms": tables.percentile(self.chats_s, 0.5) * 1e3,
            "chat_p99_ms": tables.percentile(self.chats_s, 0.99) * 1e3,
            "gap_p50_ms": tables.percentile(self.gaps_s, 0.5) * 1e3,
            "gap_p99_ms": tables.percentile(self.gaps_s, 0.99) * 1e3,
            "turns": len(self.chats_s),
            "refused": self.refused,
            "late_max_s": self.late_max_s,
            "cpu_share": self.cpu_share,
        }


class Paced:
    """Load at `rate` turns a second, with a few streamed replies going on all the time."""

    def __init__(self, service: Service, chats: list[str], streams: list[str]) -> None:
        self.rate = CALIBRATE_RATE
        self._service = service
        self._chats = itertools.cycle(chats)
        self._streams = streams

    @classmethod
    async def prepare(cls, service: Service, share: float, rate: float = 0.0) -> "Paced":
        """Warm, and with the rate at which all of the load takes about `share` of a core, unless one is given."""
        load = cls(service, await service.sessions(CHAT_SESSIONS), await service.sessions(STREAM_SESSIONS))
        if rate:
            load.rate = rate
            return load
        idle = await load.run(CALIBRATE_S, rate=0.0)
        some = await load.run(CALIBRATE_S)
        each_s = (some.cpu_share - idle.cpu_share) / load.rate
        load.rate = min(max((share - idle.cpu_share) / each_s, RATE_MIN), RATE_MAX)
        return load

    async def run(self, seconds: float, rate: float | None = None) -> Measured:
        seen, before = Measured(), await self._late()
        began_s, cpu_s = time.perf_counter(), self._service.child.cpu_s()
        until_s = began_s + seconds
        await asyncio.gather(
            self._chat(seen, self.rate if rate is None else rate, until_s),
            *(self._stream(seen, one, until_s) for one in self._streams),
        )
        seen.cpu_share = (self._service.child.cpu_s() - cpu_s) / (time.perf_counter() - began_s)
        seen.late_max_s = _most_late(before, await self._late())
        return seen

    async def _chat(self, seen: Measured, rate: float, until_s: float) -> None:
        turns: list[asyncio.Task[None]] = []
        at_s = time.perf_counter()
        while rate and at_s < until_s:
            await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
            turns.append(asyncio.create_task(self._turn(seen, next(self._chats))))
            at_s += 1 / rate
        await asyncio.gather(*turns)

    async def _turn(self, seen: Measured, session_id: str) -> None:
        try:
            seen.chats_s.append(await self._service.chat(session_id))
        except AssertionError:
            seen.refused += 1

    async def _stream(self, seen: Measured, session_id: str, until_s: float) -> None:
        caller = await Caller.open(self._service.url)
        while time.perf_counter() < until_s:
            try:
                await caller.ask("POST", "/api/chat/stream", {"session_id": session_id, "message": "go on"})
            except AssertionError:
                seen.refused += 1
                await asyncio.sleep(0.1)
                continue
            arrivals_s = caller.arrivals_s[2:-1]  # tokens: neither the start nor the end
            seen.gaps_s += [later - one for one, later in itertools.pairwise(arrivals_s)]
        caller.close()

    async def _late(self) -> dict[float, float]:
        return {float(bound): float(count) for bound, count in _bucket.findall(await self._service.metrics())}


def _most_late(before: dict[float, float], after: dict[float, float]) -> float:
    looks = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    most = max(looks.values())
    return min(bound for bound, count in looks.items() if count == most)
