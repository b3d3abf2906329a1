"""Whatever happens to sessions, and wherever a reader's connection breaks: its list is that of GET /api/sessions."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from chatbot.api.streaming import changes_writer
from tests.support.http.feed_reader import FeedReader, following_changes
from tests.support.model.model_server import ModelServer
from tests.support.nightly import scaled
from tests.support.service import Running, serving

ROUNDS = 40  # of things that happen, in one history
WEIGHTS = {
    "create": 5, "rename": 4, "pin": 3, "post": 6, "read": 4, "cancel": 2, "fork": 2, "regenerate": 2, "delete": 2,
    "access": 2, "take": 6, "leave": 3, "pause": 3,
}  # fmt: skip


async def listed(service: Running) -> tuple[dict[str, Any], str]:
    """The whole list, in small pages, and the cursor of the first."""
    query, found, cursor = {"preview": "true", "limit": "3", "order": "created"}, dict[str, Any](), ""
    while True:
        page = (await service.client.get("/api/sessions", params=query)).json()
        found |= {one["session_id"]: one for one in page["sessions"]}
        cursor = cursor or page["cursor"]
        if "next" not in page:
            return found, cursor
        query["cursor"] = page["next"]


class Reader:
    """A client with a list. It may leave at any moment, and comes back with the id of the last frame it has read."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.sessions: dict[str, Any] = {}
        self.cursor = ""
        self.resyncs = 0
        self._stack = AsyncExitStack()
        self._feed: FeedReader | None = None

    async def take(self, seconds: float) -> bool:
        """Read one frame, if one comes in time. The connection is of no use if none comes."""
        if self._feed is None:
            if not self.cursor:
                self.sessions, self.cursor = await listed(self.service)
            stream = self.service.client.stream("GET", "/api/sessions/changes", params={"after": self.cursor})
            self._feed = FeedReader(await self._stack.enter_async_context(stream))
        try:
            async with asyncio.timeout(seconds):
                self.apply(await self._feed.next())
        except TimeoutError:
            await self.leave()
            return False
        return True

    def apply(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "session":
                self.sessions[frame["session"]["session_id"]] = frame["session"]
            case "gone":
                self.sessions.pop(frame["session_id"], None)
            case "resync":
                self.cursor, self.resyncs = "", self.resyncs + 1
                return
            case "end":
                self._feed = None
                return
            case _:  # ready, which only has a cursor
                pass
        assert not self.cursor or int(frame["cursor"]) >= int(self.cursor)
        self.cursor = frame["cursor"]

    async def leave(self) -> None:
        self._feed = None
        await self._stack.aclose()


class History:
    """Things that happen to sessions, one after the other."""

    def __init__(self, service: Running, rng: random.Random) -> None:
        self.service = service
        self.rng = rng
        self.ids: list[str] = []

    async def happen(self, verb: str) -> None:
        client = self.service.client
        if verb == "create" or not self.ids:
            self.ids.append(await self.service.session())
            return
        address = f"/api/sessions/{self.rng.choice(self.ids)}"
        session_id = address.rpartition("/")[2]
        match verb:
            case "rename":
                await client.patch(address, json={"title": f"T{self.rng.randrange(9)}"})
            case "pin":
                await client.patch(address, json={"pinned": self.rng.random() < 0.6})
            case "post":
                body = {"session_id": session_id, "message": f"m{self.rng.randrange(99)}"}
                await client.post("/api/chat", json=body, headers={"Prefer": "respond-async"})
            case "read":
                await client.post(f"{address}/read")
            case "cancel" | "regenerate":
                headers = {"Prefer": "respond-async"} if verb == "regenerate" else {}
                await client.post(f"{address}/{verb}", headers=headers)
            case "fork":
                answer = await client.post(f"{address}/fork")
                self.ids += [answer.json()["session_id"]] if answer.status_code == 201 else []
            case "delete":
                await client.delete(address)
                self.ids.remove(session_id)
            case _:
                await client.get(f"{address}/messages")


@pytest.mark.parametrize("seed", range(scaled(4)))
async def test_a_list_that_is_followed_is_the_list(
    tmp_path: Path, model: ModelServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(changes_writer, "PAGE_SESSIONS", rng.choice([1, 2, 20]))
    monkeypatch.setattr(changes_writer, "CHANGED_MAX", rng.choice([2, 1_000]))
    monkeypatch.setattr(changes_writer, "ROUND_S", rng.choice([0.0, 0.05]))
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_ACCESS_RESOLUTION_S="0.01") as service:
        history, reader = History(service, rng), Reader(service)
        for verb in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=ROUNDS):
            match verb:
                case "take":
                    await reader.take(0.05)
                case "leave":
                    await reader.leave()
                case "pause":
                    await asyncio.sleep(rng.random() / 20)
                case _:
                    await history.happen(verb)
        while any(one["status"] == "replying" for one in (await listed(service))[0].values()):
            await asyncio.sleep(0.01)
        last = await service.session(title="last")
        while last not in reader.sessions:
            await reader.take(10)
        await reader.leave()
        assert reader.sessions == (await listed(service))[0]


async def test_two_readers_of_one_owner_see_the_same(service: Running) -> None:
    async with following_changes(service.client) as first, following_changes(service.client) as second:
        session_id = await service.session()
        frames = [await one.next() for one in (first, second)]
        assert frames[0] == frames[1]
        assert frames[0]["session"]["session_id"] == session_id
