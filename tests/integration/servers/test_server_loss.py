"""Model servers die, flap and come back under load: no turn fails that had not begun."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.servers.test_several_servers import until_health
from tests.support.model.model_server import ModelServer
from tests.support.model.model_server_process import ModelServerProcess, several_servers
from tests.support.service import Running, serving

MESSAGE = "one two three four five six seven eight"
CLIENTS = 16


class Load:
    """Clients that chat without a pause, each in a session of its own, until they are stopped."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.sessions: list[str] = []
        self.answers: Counter[int] = Counter()  # by HTTP status
        self.is_over = False
        self.failed: list[dict[str, Any]] = []  # what ended the replies that were not completed

    async def client(self) -> None:
        session = await self.running.session()
        self.sessions.append(session)
        while not self.is_over:
            body = {"session_id": session, "message": MESSAGE}
            answer = await self.running.client.post("/api/chat", json=body)
            self.answers[answer.status_code] += 1

    def completed(self, server: str) -> int:
        assert self.running.services.servers is not None
        return next(
            one.requests.get("completed", 0) for one in self.running.services.servers.statuses if one.name == server
        )

    async def until_completed(self, server: str, more: int) -> None:
        target = self.completed(server) + more
        async with asyncio.timeout(30):
            while self.completed(server) < target:
                await asyncio.sleep(0.005)

    async def until_begun(self, server: str) -> None:
        """Until this server is in the middle of a reply."""
        running_reply = self.running.services.supervisor.running_reply
        async with asyncio.timeout(30):
            while True:
                replies = [reply for session in self.sessions if (reply := running_reply(session)) is not None]
                if any(reply.route.server == server and reply.length for reply in replies):
                    return
                await asyncio.sleep(0.001)

    async def ends(self) -> list[dict[str, Any]]:
        """The events that ended the replies."""
        found = []
        for session in self.sessions:
            events = (await self.running.client.get(f"/api/sessions/{session}/events")).json()["events"]
            found += [one for one in events if one["type"] in ("reply_completed", "reply_failed")]
        return found


@asynccontextmanager
async def under_load(folder: Path, a: str, b: str) -> AsyncIterator[Load]:
    settings = several_servers([{"name": "a", "url": a}, {"name": "b", "url": b}])
    async with serving(folder, "", **settings) as running:
        load = Load(running)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(load.client())
            yield load
            load.is_over = True
        ends = await load.ends()
        assert len(ends) == load.answers.total()
        # The promise: only replies that had begun end with their server, and what they had is kept.
        load.failed = [end["data"] for end in ends if end["type"] == "reply_failed"]
        assert all(f"You said: {MESSAGE}".startswith(one["content"]) and one["content"] for one in load.failed)
        assert load.answers[200] == len(ends) - len(load.failed)


async def test_a_killed_server_fails_no_turn_that_had_not_begun_and_gets_its_load_back(tmp_path: Path) -> None:
    async with (
        ModelServerProcess(delay_s=0.01) as a,
        ModelServerProcess(delay_s=0.01) as b,
        under_load(tmp_path, a.url, b.url) as load,
    ):
        await load.until_completed("a", 10)
        await load.until_completed("b", 10)
        await load.until_begun("b")
        await b.kill()
        await until_health(load.running, "b", available=False)
        await load.until_completed("a", 2 * CLIENTS)
        await b.start()
        await until_health(load.running, "b", available=True)
        await load.until_completed("b", 10)
    assert load.failed
    assert {one["server"] for one in load.failed} == {"b"}
    assert {one["cause"] for one in load.failed} <= {"llm_failed", "llm_unavailable"}


async def test_a_flapping_server_fails_no_turn_that_had_not_begun(tmp_path: Path) -> None:
    async with (
        ModelServer(delay_s=0.002) as a,
        ModelServer(delay_s=0.002) as b,
        under_load(tmp_path, a.url, b.url) as load,
    ):
        for _ in range(8):
            await load.until_completed("a", 5)
            await b.stop()
            await load.until_completed("a", 5)
            await b.start()
    assert load.answers[200] > 40
