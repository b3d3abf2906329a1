"""Readers of a drill: each follows a session, drops at random, and comes back at another node with its cursor."""

import asyncio
import json
import random
import re
import time
from typing import Any

import httpx

from tests.drills.drill_record import Operation, ReceivedFrame
from tests.drills.load.client_requests import Targets, ask, new_client
from tests.drills.load.drill_clients import SessionPool

RECONNECT_DELAY_S = (0.0, 0.4)
DISCONNECT_PROBABILITY = 0.02  # how likely it hangs up after a frame
SWITCH_PROBABILITY = 0.03  # how likely it follows another session then
READ_TIMEOUT_S = 8.0  # longer than several pings: nobody is there any more


class DrillReader:
    """`heard` and `operations` are its history; `cursor` is what it says when it comes back."""

    def __init__(self, name: str, targets: Targets, pool: SessionPool, seed: int) -> None:
        self.name = name
        self.heard: list[ReceivedFrame] = []
        self.operations: list[Operation] = []
        self.session_id = ""
        self.cursor = "0:0"
        self.connections = 0
        self.stays_connected = False  # it does not leave any more
        self._targets = targets
        self._pool = pool
        self._rng = random.Random(seed)
        self._follow = 0
        self._over = True

    @property
    def version(self) -> int:
        """The last recorded event that it knows of its session."""
        return int(self.cursor.partition(":")[0])

    async def run(self) -> None:
        """Until cancelled."""
        async with new_client() as http:
            while True:
                if self._over or (not self.stays_connected and self._rng.random() < SWITCH_PROBABILITY):
                    await self._choose(http)
                if not self._over:
                    await self._connect(http)
                await asyncio.sleep(self._rng.uniform(*RECONNECT_DELAY_S))

    async def _choose(self, http: httpx.AsyncClient) -> None:
        """Another session: from its beginning, or from its messages on, as a page does it."""
        self._over = True
        if not self._pool.sessions:
            return
        self.session_id, self.cursor = self._pool.choose(self._rng), "0:0"
        self._follow += 1
        if self._rng.random() < 0.4:
            await self._snapshot(http)
        self._over = False

    async def _snapshot(self, http: httpx.AsyncClient) -> None:
        """The messages as they are, and the cursor that goes with them. Where there is no answer: all anew."""
        target = self._targets.choose(self._rng)
        read = Operation(
            client=self.name, kind="read", target=target, invoked_s=time.time(), session_id=self.session_id
        )
        self.operations.append(read)
        told = await ask(http, self._targets, read, "GET", f"/api/sessions/{self.session_id}/messages?limit=1000")
        if read.status != 200:
            self._over = self._over or read.status == 404
            self.cursor = "0:0"
            self._note(target, {"type": "snapshot", "messages": []})
            return
        names = ("message_id", "role", "status", "content")
        read.messages = [{name: one[name] for name in names} for one in told["messages"]]
        read.version, self.cursor = told["version"], told["cursor"]
        self._note(target, {"type": "snapshot", "messages": read.messages})

    async def _connect(self, http: httpx.AsyncClient) -> None:
        """One connection, until it breaks, or it leaves."""
        target = self._targets.choose(self._rng)
        self.connections += 1
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.cursor}
        url = f"{self._targets.urls[target]}/api/sessions/{self.session_id}/stream"
        begun_s = time.time()
        try:
            async with http.stream("GET", url, headers=headers, timeout=READ_TIMEOUT_S) as answer:
                if answer.status_code == 404:
                    self._over = True
                if answer.status_code != 200:
                    self._refused(target, begun_s, answer.status_code)
                    return
                rest = ""
                async for piece in answer.aiter_text():
                    *blocks, rest = (rest + piece).split("\n\n")
                    for block in blocks:
                        if self._take(target, block) == "resync":
                            await self._snapshot(http)
                            return
                    if self._over or (not self.stays_connected and self._rng.random() < DISCONNECT_PROBABILITY):
                        return
        except httpx.HTTPError:
            return

    def _take(self, target: str, block: str) -> str:
        """The type of the frame, "" for what is none."""
        lines = dict(re.findall(r"^(id|data): (.*)$", block, re.MULTILINE))
        if not lines.get("data", "").startswith("{"):
            return ""  # a ping, or the stream's end
        frame = json.loads(lines["data"])
        self.cursor = lines["id"]
        self._note(target, frame)
        self._over = frame["type"] in ("expired", "deleted")
        return str(frame["type"])

    def _note(self, target: str, frame: dict[str, Any]) -> None:
        self.heard.append(
            ReceivedFrame(
                self.name, self._follow, self.connections, target, self.session_id, time.time(), self.cursor, frame
            )
        )

    def _refused(self, target: str, begun_s: float, status: int) -> None:
        self.operations.append(
            Operation(
                client=self.name,
                kind="follow",
                target=target,
                invoked_s=begun_s,
                session_id=self.session_id,
                completed_s=time.time(),
                status=status,
            )
        )
