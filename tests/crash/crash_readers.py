"""Readers who follow sessions over real sockets while the program dies under them and comes back."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from events.options import LogOptions
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.sessions.readers_harness import FeedClient, ReceivedReply, expected_frames

RECONNECT_DELAY_S = 0.02  # after a cut; a service that says when to come back is obeyed
DISCONNECT_PROBABILITY = 0.02  # how likely a reader hangs up by itself after a frame
WAIT_TIMEOUT_S = 20.0


class CrashReader:
    """Follows one session at a time: comes back with its Last-Event-ID whatever happens, until the session is gone."""

    def __init__(self, url: str, seed: int) -> None:
        self.session_id = ""
        self.client = FeedClient("0:0")
        self.is_connected = False
        self.drained = 0  # how often the service has said that it goes down
        self.left = 0  # how often it has hung up by itself
        self.came_back = 0
        self._url = url
        self._rng = random.Random(seed)

    async def run(self, sessions: Callable[[], set[str]]) -> None:
        """Until cancelled. `sessions` are those to choose from at that moment."""
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as http:
            while True:
                while not sessions():
                    await asyncio.sleep(RECONNECT_DELAY_S)
                self.session_id = self._rng.choice(sorted(sessions()))
                self.client = FeedClient("0:0")
                if self._rng.random() < 0.4:
                    self.client = await self._snapshot(http)
                while not self.client.over:
                    await self._follow(http)
                    await asyncio.sleep(self.client.retry_ms / 1000 if self.client.draining else RECONNECT_DELAY_S)
                    self.drained += self.client.draining
                    self.client.draining = False
                    self.came_back += 1

    async def _snapshot(self, http: httpx.AsyncClient) -> FeedClient:
        """As a page does that shows the messages and then follows."""
        client = FeedClient("0:0")
        try:
            answer = await http.get(f"/api/sessions/{self.session_id}/messages", params={"limit": 1000})
        except httpx.TransportError:
            return client
        if answer.status_code == 200:
            body: dict[str, Any] = answer.json()
            client = FeedClient(body["cursor"])
            for one in body["messages"]:
                if one["role"] == "assistant" and one["status"] != "queued":
                    ended, may_restart = one["status"] != "streaming", one["status"] == "interrupted"
                    client.held[one["message_id"]] = ReceivedReply(one["content"], ended=ended, may_restart=may_restart)
        return client

    async def _follow(self, http: httpx.AsyncClient) -> None:
        """One connection. A frame that was cut in two has not come."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.client.cursor or ""}
        try:
            async with http.stream("GET", f"/api/sessions/{self.session_id}/stream", headers=headers) as answer:
                if answer.status_code == 404:
                    self.client.over = True
                    return
                assert answer.status_code == 200, await answer.aread()
                self.is_connected = True
                rest = b""
                async for piece in answer.aiter_bytes():
                    *blocks, rest = (rest + piece).split(b"\n\n")
                    for block in blocks:
                        self.client.take(block + b"\n\n")
                    if self._rng.random() < DISCONNECT_PROBABILITY:
                        self.left += 1
                        self.is_connected = False
                        return
        except httpx.TransportError:
            return
        finally:
            self.is_connected = False

    async def until(self, reached: Callable[["CrashReader"], bool], what: str) -> None:
        """Raises AssertionError with what the reader knows when it does not come about."""
        give_up_s = time.monotonic() + WAIT_TIMEOUT_S
        while not reached(self):
            assert time.monotonic() < give_up_s, f"waited in vain until {what}: {vars(self)} {vars(self.client)}"
            await asyncio.sleep(0.005)

    async def check(self, http: httpx.AsyncClient, version: int) -> None:
        """It has all of its session up to `version`, to the last character; nothing runs there any more."""
        await self.until(lambda me: ("session", version, None) in me.client.told, "it has heard the last word")
        path = f"/api/sessions/{self.session_id}"
        history = (await http.get(f"{path}/messages", params={"limit": 1000})).json()["messages"]
        replies = {one["message_id"]: one["content"] for one in history if one["role"] == "assistant"}
        held = {reply_id: one.text for reply_id, one in self.client.held.items()}
        assert held == replies
        assert all(one.ended and not one.missed for one in self.client.held.values())

    async def check_told(self, path: Path) -> None:
        """It was told each recorded event after the place where it came in: in order, and once."""
        log = await SqliteLog.open(path, LogOptions(), read_only=True)
        try:
            events = await log.read(self.session_id, limit=100_000)
        finally:
            await log.close()
        assert self.client.told == expected_frames(events[self.client.origin or 0 :])


async def check_all(url: str, readers: list[CrashReader]) -> None:
    """Say a last word in each session, and see that it and all before it has reached those who follow."""
    async with httpx.AsyncClient(base_url=url, timeout=20) as http:
        for reader in readers:
            await reader.until(lambda me: me.is_connected, "it is back")
        versions: dict[str, int] = {}
        for session_id in {reader.session_id for reader in readers}:
            answer = await http.patch(f"/api/sessions/{session_id}", json={"title": "the last word"})
            assert answer.status_code == 200, answer.text
            versions[session_id] = answer.json()["version"]
        for reader in readers:
            await reader.check(http, versions[reader.session_id])


@asynccontextmanager
async def following(url: str, sessions: Callable[[], set[str]], seeds: list[int]) -> AsyncIterator[list[CrashReader]]:
    """A reader for each seed. What one of them found wrong is raised at the end."""
    readers = [CrashReader(url, seed) for seed in seeds]
    tasks = [asyncio.create_task(reader.run(sessions)) for reader in readers]
    try:
        yield readers
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
