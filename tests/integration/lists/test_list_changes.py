"""The stream of changes in lists of sessions, over real sockets."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.api.streaming import changes_writer
from tests.support.http.feed_reader import FeedReader, following_changes
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

KEYS = {"CHATBOT_API_KEYS": "mina:a-long-secret-of-hers,jun:another-long-secret"}
MINA, JUN = {"X-API-Key": "a-long-secret-of-hers"}, {"X-API-Key": "another-long-secret"}


async def cursor_of(service: Running) -> str:
    return str((await service.client.get("/api/sessions")).json()["cursor"])


async def shown(service: Running) -> dict[str, Any]:
    answer = await service.client.get("/api/sessions", params={"preview": "true"})
    return {one["session_id"]: one for one in answer.json()["sessions"]}


async def until(feed: FeedReader, session_id: str, **fields: Any) -> dict[str, Any]:
    """The first frame in which the session is like that."""
    while True:
        frame = await feed.next()
        assert frame["type"] in ("session", "gone"), frame
        session = frame.get("session", {})
        if session.get("session_id") == session_id and all(session[name] == value for name, value in fields.items()):
            return dict(session)


async def test_everything_that_a_list_shows_is_sent_as_it_changes(service: Running, model: ModelServer) -> None:
    model.script(pieces=["An answer"])
    async with following_changes(service.client) as feed:
        session_id = await service.session()
        await until(feed, session_id, status="active", title=None, unread=False, preview=None)
        address = f"/api/sessions/{session_id}"
        await service.client.patch(address, json={"title": "T"})
        await until(feed, session_id, title="T", pinned=False)
        await service.client.patch(address, json={"pinned": True})
        await until(feed, session_id, title="T", pinned=True)
        answer = await service.chat(session_id, "hello")
        ended = await until(feed, session_id, unread=True, status="active")
        assert ended["preview"] == {"message_id": answer["message_id"], "role": "assistant", "text": "An answer"}
        assert ended == (await shown(service))[session_id]
        await service.client.post(f"{address}/read")
        await until(feed, session_id, unread=False)
        await service.client.delete(address)
        assert await feed.next() | {"cursor": ""} == {
            "type": "gone", "session_id": session_id, "reason": "deleted", "cursor": "", "retry": None
        }  # fmt: skip


async def test_a_running_reply_is_seen_to_start_and_to_end_and_not_to_grow(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=["a", "b", "c"], hold_after=3)
    session_id = await service.session()
    async with following_changes(service.client) as feed:
        chatting = asyncio.create_task(service.chat(session_id, "hello"))
        running = await until(feed, session_id, status="replying")
        while running["active_reply"] is None:
            running = await until(feed, session_id, status="replying")
        assert running["preview"]["text"] == "hello"
        model.release()
        answer = await chatting
        assert (await until(feed, session_id, status="active"))["preview"]["message_id"] == answer["message_id"]


async def test_a_list_and_its_changes_join_without_a_gap(service: Running) -> None:
    await service.session()
    cursor = await cursor_of(service)
    between = await service.session(title="between")
    async with following_changes(service.client, cursor) as feed:
        frame = await feed.next()
        assert frame["session"]["session_id"] == between
        later = await service.session(title="later")
        assert (await feed.next())["session"]["session_id"] == later
    async with following_changes(service.client, **{"Last-Event-ID": frame["cursor"]}) as feed:
        assert (await feed.next())["session"]["session_id"] == later


async def test_a_session_that_changed_often_is_sent_once(service: Running) -> None:
    session_id, cursor = await service.session(), await cursor_of(service)
    for number in range(9):
        await service.client.patch(f"/api/sessions/{session_id}", json={"title": f"T{number}"})
    async with following_changes(service.client, cursor) as feed:
        assert (await feed.next())["session"]["title"] == "T8"
        last = await service.session()
        assert (await feed.next())["session"]["session_id"] == last


async def test_a_long_absence_is_made_up_for_in_pages(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_writer, "PAGE_SESSIONS", 2)
    made = [await service.session() for _ in range(7)]
    await service.client.delete(f"/api/sessions/{made[3]}")
    async with following_changes(service.client, 0) as feed:
        frames = [await feed.next() for _ in made]
    assert sorted(one.get("session", one)["session_id"] for one in frames) == sorted(made)
    assert [int(one["cursor"]) for one in frames] == sorted(int(one["cursor"]) for one in frames)
    assert [one["type"] for one in frames].count("gone") == 1
    for number, frame in enumerate(frames):  # from wherever the connection broke
        async with following_changes(service.client, frame["cursor"]) as feed:
            if number + 1 < len(frames):
                assert (await feed.next())["cursor"] == frames[number + 1]["cursor"]


async def test_a_cursor_that_cannot_be_served_asks_for_the_list_again(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_writer, "CHANGED_MAX", 2)
    for _ in range(3):
        await service.session()
    cursor = int(await cursor_of(service))
    for after in (cursor + 1, 0):
        async with service.client.stream("GET", "/api/sessions/changes", params={"after": after}) as answer:
            feed = FeedReader(answer)
            frame = await feed.next()
            assert (frame["type"], frame["cursor"]) == ("resync", str(cursor))
            assert (await feed.next())["type"] == "end"
    async with following_changes(service.client, cursor - 1) as feed:
        assert (await feed.next())["type"] == "session"


async def test_each_key_follows_its_own_sessions(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        refused = await service.client.get("/api/sessions/changes")
        assert refused.status_code == 401
        async with following_changes(service.client, **MINA) as feed:
            await service.client.post("/api/sessions", json={"title": "jun's"}, headers=JUN)
            made = await service.client.post("/api/sessions", json={"title": "mina's"}, headers=MINA)
            assert (await feed.next())["session"] == {**made.json(), "preview": None}


async def test_without_keys_the_sessions_of_all_owners_are_followed(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        for key in (MINA, JUN):
            await service.client.post("/api/sessions", headers=key)
    async with serving(tmp_path, model.url, CHATBOT_AUTH_ALLOW_ANONYMOUS="true") as service:
        await service.session()
        async with following_changes(service.client, 0) as feed:
            assert len({(await feed.next())["session"]["session_id"] for _ in range(3)}) == 3


async def test_an_expired_session_is_gone(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service, following_changes(service.client) as feed:
        session_id = await service.session(timeout_hours=0.0003)
        assert (await feed.next())["session"]["session_id"] == session_id
        frame = await feed.next()
        assert (frame["type"], frame["session_id"], frame["reason"]) == ("gone", session_id, "expired")


async def test_a_stream_without_news_asks_nothing(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    queries = service.services.queries
    changed_sessions = queries.changed_sessions

    async def counting(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return await changed_sessions(*args)

    monkeypatch.setattr(queries, "changed_sessions", counting)
    session_id = await service.session()
    async with following_changes(service.client) as feed:
        await service.client.patch(f"/api/sessions/{session_id}", json={"title": "T"})
        await until(feed, session_id, title="T")
        await asyncio.sleep(2 * changes_writer.ROUND_S)
        before = asked
        await asyncio.sleep(2 * changes_writer.ROUND_S)
        assert asked == before


async def test_sessions_of_other_kinds_are_no_news(service: Running) -> None:
    async with following_changes(service.client) as feed:
        body = {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}]}
        answer = await service.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        session_id = await service.session()
        assert (await feed.next())["session"]["session_id"] == session_id


async def test_a_reader_that_takes_nothing_keeps_nobody_waiting_and_gets_each_session_once(
    tmp_path: Path, model: ModelServer
) -> None:
    """It is a position: what it has not taken is in no queue. The system's buffers take some megabytes."""
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_METADATA_MAX_BYTES="500000") as service:
        url = service.client.base_url
        taking = socket.socket()
        taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the system takes megabytes for it
        taking.connect((url.host, url.port))
        reader, writer = await asyncio.open_connection(sock=taking, limit=1024)
        writer.write(b"GET /api/sessions/changes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        made = [await service.session(metadata={"a": "x" * 400_000}) for _ in range(20)]
        async with following_changes(service.client, 0) as feed:
            seen = set[str]()
            while len(seen) < len(made):
                seen.add((await feed.next())["session"]["session_id"])
        for number in range(4):
            for session_id in made:
                await service.client.patch(f"/api/sessions/{session_id}", json={"title": f"T{number}"})
        last = await service.session(title="last")
        taken = bytearray()
        async with asyncio.timeout(30):
            while last.encode() not in taken[-1_000:]:
                taken += await reader.read(65_536)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        frames = [taken.count(f'"session_id":"{session_id}"'.encode()) for session_id in made]
        assert min(frames) >= 1
        assert sum(frames) < 4 * len(made)  # of 5 changes of each


async def test_wrong_cursors_and_parameters_are_refused(service: Running) -> None:
    for query in ({"after": "x"}, {"after": "1:2"}, {"limit": "1"}):
        answer = await service.client.get("/api/sessions/changes", params=query)
        assert answer.status_code == 422
    assert (await service.client.get("/api/sessions/changes", headers={"Last-Event-ID": "-1"})).status_code == 422


async def test_a_stream_ends_when_the_service_drains(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        async with following_changes(service.client) as feed:
            session_id = await service.session()
            await until(feed, session_id)
            service.services.feeds.close()
            frame = await feed.next()
            assert (frame["type"], bool(frame["retry"])) == ("draining", True)
            assert (await feed.next())["type"] == "end"
        cursor = frame["cursor"]
    async with serving(tmp_path, model.url) as service, following_changes(service.client, cursor) as feed:
        session_id = await service.session()
        assert (await feed.next())["session"]["session_id"] == session_id


async def test_the_stream_is_no_session_by_that_name(service: Running) -> None:
    assert (await service.client.delete("/api/sessions/changes")).status_code in (404, 405, 422)
    with pytest.raises(httpx.ReadTimeout):
        await service.client.get("/api/sessions/changes", timeout=0.3)
