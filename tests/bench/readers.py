"""What an open reader costs: memory and CPU while it waits, CPU while it follows a reply, what slow ones cost others.

    python -m tests.bench.readers                # 10,000 readers, 1% of them slow: about three minutes

The service has the first core, the readers and the model the second. The floor is a bare aiohttp handler.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.clients.raw_clients import Caller, FeedReader, SlowReader
from tests.bench.clients.reader_crowd import Model, Service, allow_files, gather_crowd, trickling
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.bench_processes import Child, product, started
from tests.support.programs.external_programs import free_port

SERVER_CORE, DRIVER_CORE = 0, 1
WARM = 200  # readers that come and go first, so that only what a reader needs is counted
SETTLE_S = 2.0
STREAMS = 5  # sessions that write at a time
TOKENS, DELAY_MS = 160, 50.0  # of a streamed reply: eight seconds
FILLING_CHARS, FILLINGS = 30_000, 12  # of messages that fill the buffers of slow readers; turns
CROWDS = 3  # of sessions that come and leave memory: the projections keep the states of the newest 20,000
CHATS_PER_S = 25.0
CHAT_SESSIONS = 50
KIB = 1024
RESIDENT = ("before", "waiting", "streamed", "after", "again")


async def waiting(child: Child, url: str, ids: Sequence[str], count: int) -> tuple[list[FeedReader], float]:
    """`count` readers that wait, and the bytes that each costs the server."""
    leave(await gather_crowd(url, ids, min(WARM, count)))
    await asyncio.sleep(SETTLE_S)
    before = child.rss_bytes()
    readers = await gather_crowd(url, ids, count)
    await asyncio.sleep(SETTLE_S)
    return readers, (child.rss_bytes() - before) / count


async def floor(folder: Path, readers: int) -> dict[str, float]:
    """The bare handler."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(Path(__file__).with_name("servers") / "floor_sse_server.py"), str(port)]
    with started(command, folder=folder, core=SERVER_CORE, ready=f"{url}/readyz") as child:
        crowd, each = await waiting(child, url, ["any"], readers)
        leave(crowd)
    return {"reader_bytes": each}


class Streaming:
    """Replies in `ids`, each followed by its share of `readers`."""

    def __init__(self, service: Service, ids: Sequence[str], readers: Sequence[FeedReader]) -> None:
        self._service = service
        self._ids = ids
        self._readers = [one for one in readers if one.session_id in set(ids)]

    async def run(self, model: Model) -> tuple[int, int]:
        """One reply in each session; reader-tokens told, and readers whose text was not exactly the model's."""
        for one in self._readers:
            one.kept = []
        await asyncio.gather(*(self._reply(session_id) for session_id in self._ids))
        await asyncio.sleep(0.5)
        wrong = sum(not _is_exact(one, model.text) for one in self._readers)
        for one in self._readers:
            one.kept = None
        return (len(self._readers) + len(self._ids)) * model.tokens, wrong

    async def _reply(self, session_id: str) -> None:
        caller = await Caller.open(self._service.url)
        await caller.ask("POST", "/api/chat/stream", {"session_id": session_id, "message": "go on"})
        caller.close()


def _is_exact(reader: FeedReader, text: str) -> bool:
    frames = reader.told()
    chunks = "".join(frame["content"] for frame in frames if frame["type"] == "chunk")
    ends = [frame["full_response"] for frame in frames if frame["type"] == "complete"]
    return chunks == text and ends == [text] and not reader.lost


async def measured(service: Service, chats: Sequence[str], streaming: Streaming | None, model: Model) -> dict[str, Any]:
    """CPU and the latencies of chat over the time of one reply, with or without replies being followed."""
    began_s, cpu_s = time.perf_counter(), service.child.cpu_s()
    chatting = asyncio.create_task(service.chat_paced(chats, CHATS_PER_S, TOKENS * DELAY_MS / 1000))
    told, wrong = await streaming.run(model) if streaming is not None else (0, 0)
    latencies_s = await chatting
    took_s = time.perf_counter() - began_s
    return {"cpu_share": (service.child.cpu_s() - cpu_s) / took_s, "took_s": took_s, "told": told, "wrong": wrong,
            "latencies_s": latencies_s}  # fmt: skip


async def follow(service: Service, model: Model, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured of the service with its readers."""
    ids, chats = await service.sessions(options.sessions), await service.sessions(CHAT_SESSIONS)
    await service.chat_all(chats * 4)
    rss, files = service.child.rss_bytes(), service.descriptors()
    readers, each = await waiting(service.child, service.url, ids, options.readers)
    result: dict[str, Any] = {"reader_bytes": each, "rss_before": rss, "rss_waiting": service.child.rss_bytes()}
    began_s, cpu_s = time.perf_counter(), service.child.cpu_s()
    await asyncio.sleep(options.idle_s)
    result["idle_cpu_share"] = (service.child.cpu_s() - cpu_s) / (time.perf_counter() - began_s)
    slow = [
        SlowReader(service.url, ids[STREAMS + number % STREAMS], reads=number % 2 == 0)
        for number in range(max(1, options.readers // 100))
    ]
    with trickling(slow):
        result["slow_bytes"] = await fill(service, ids[STREAMS : 2 * STREAMS], len(slow))
        groups = {
            "alone": None,
            "fast": Streaming(service, ids[:STREAMS], readers),
            "slow": Streaming(service, ids[STREAMS : 2 * STREAMS], readers),
        }
        for name, streaming in list(groups.items()) * options.rounds:
            result.setdefault(name, []).append(await measured(service, chats, streaming, model))
    result["rss_streamed"] = service.child.rss_bytes()
    leave([*readers, *slow])
    result["streams_after"] = await service.settled("chatbot_open_streams", 0)
    result["files"], result["files_after"] = files, service.descriptors()
    await asyncio.sleep(SETTLE_S)
    result["rss_after"] = service.child.rss_bytes()
    again = await gather_crowd(service.url, ids, options.readers)
    await asyncio.sleep(SETTLE_S)
    result["rss_again"] = service.child.rss_bytes()
    leave(again)
    return result


def leave(crowd: Sequence[FeedReader | SlowReader]) -> None:
    for one in crowd:
        one.close()


async def fill(service: Service, ids: Sequence[str], slow: int) -> float:
    """Chat in these sessions until their slow readers take no more; bytes of memory that each costs then."""
    before = service.child.rss_bytes()
    for _ in range(FILLINGS):
        await service.chat_all(ids, "x" * FILLING_CHARS)
        await asyncio.sleep(0.5)
    return (service.child.rss_bytes() - before) / slow


async def passivated(folder: Path, sessions: int) -> dict[str, Any]:
    """Memory of sessions that have chatted and left memory: crowds of them, the first of which fill caches."""
    settings = {
        "CHATBOT_LLM_PROVIDER": "midm",
        "CHATBOT_SESSIONS_IDLE_TIMEOUT_S": "1",
        "CHATBOT_DATABASE_CACHE_KIB": "256",  # a bounded cache that fills slowly would look like a leak
    }
    with product(folder, await Model(20, 0).listen(), core=SERVER_CORE, **settings) as (child, url):
        service = await Service.reach(child, url)
        await service.chat_all(await service.sessions(200))
        rss = []
        for _ in range(CROWDS + 1):
            await service.settled("chatbot_live_actors", 0)
            await asyncio.sleep(SETTLE_S)
            rss.append(child.rss_bytes())
            if len(rss) <= CROWDS:
                await service.chat_all(await service.sessions(sessions))
        actors = await service.gauge("chatbot_live_actors")
        service.close()
    return {"rss": rss, "session_bytes": [(later - one) / sessions for one, later in itertools.pairwise(rss)],
            "actors": actors}  # fmt: skip


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = Model(TOKENS, DELAY_MS)
    result: dict[str, Any] = {"readers": options.readers, "sessions": options.sessions}
    for name in ("bare", "product", "idle"):
        (folder / name).mkdir()
    result["floor"] = await floor(folder / "bare", options.readers)
    settings = {
        "CHATBOT_LLM_PROVIDER": "midm",
        "MAX_CONTEXT_MESSAGES": "1",  # else the messages that fill slow readers would make their sessions' turns dear
    }
    with product(folder / "product", await model.listen(), core=SERVER_CORE, **settings) as (child, url):
        service = await Service.reach(child, url)
        result["product"] = await follow(service, model, options)
        service.close()
    result["passivated"] = await passivated(folder / "idle", options.passivated)
    return result


def report(result: dict[str, Any]) -> str:
    """In Markdown."""
    found, idle = result["product"], result["passivated"]
    alone = [one["cpu_share"] for one in found["alone"]]
    rows = [
        ["memory of a waiting reader", f"{found['reader_bytes'] / KIB:.1f} KiB",
         f"bare aiohttp {result['floor']['reader_bytes'] / KIB:.1f} KiB"],
        ["CPU while all wait", f"{found['idle_cpu_share']:.1%} of a core",
         f"{found['idle_cpu_share'] * 1e6 / result['readers']:.1f} us per reader and second, pings included"],
    ]  # fmt: skip
    for name in ("fast", "slow"):
        costs = [
            (one["cpu_share"] - base) * one["took_s"] / one["told"] * 1e6
            for one, base in zip(found[name], alone, strict=True)
        ]
        wrong = sum(one["wrong"] for one in found[name])
        beside = "none slow" if name == "fast" else f"{max(1, result['readers'] // 100)} slow ones beside"
        rows.append(
            [f"CPU per token and reader, {beside}", f"{tables.shown(costs)} us", f"{wrong} readers with another text"]
        )
    for name, says in (("alone", "readers wait"), ("fast", "replies followed"), ("slow", "with slow readers")):
        times = [at for one in found[name] for at in one["latencies_s"]]
        rows.append([f"chat beside: {says}", f"p50 {tables.percentile(times, 0.5) * 1e3:.1f} ms",
                     f"p99 {tables.percentile(times, 0.99) * 1e3:.1f} ms, {len(times)} turns"])  # fmt: skip
    rows += [
        ["memory of a slow reader that is full", f"{found['slow_bytes'] / KIB:.0f} KiB", ""],
        ["resident: before, waiting, streamed, all gone, all back",
         " / ".join(f"{found[f'rss_{name}'] / KIB / KIB:.0f}" for name in RESIDENT),
         "MiB"],
        ["descriptors before and after", f"{found['files']} / {found['files_after']}",
         f"open streams {found['streams_after']:.0f}"],
        ["memory of a session that has left memory", " then ".join(f"{one:.0f}" for one in idle["session_bytes"]),
         f"bytes each, crowd by crowd; live actors {idle['actors']:.0f}"],
    ]  # fmt: skip
    return tables.table(["what", "figure", "beside"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=200, help="that they are spread over")
    parser.add_argument("--passivated", type=int, default=10_000, help="sessions that chat once and leave memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=20.0, help="for how long all wait")
    options = parser.parse_args()
    allow_files(options.readers)
    os.sched_setaffinity(0, {DRIVER_CORE})
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=loop_factory()) as runner:
        result = runner.run(measure(Path(name), options))
    machine = tables.machine()
    print(tables.describe(machine), report(result), sep="\n\n")
    tables.save("readers", {"machine": machine, **result})


if __name__ == "__main__":
    main()
