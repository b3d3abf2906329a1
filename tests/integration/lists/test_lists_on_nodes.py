"""Lists, their changes, tickets and removals on several nodes over one PostgreSQL log, and on workers over one file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.feed_reader import FeedReader, following, following_changes
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running
from tests.support.worker_processes import two_workers

pytestmark = pytest.mark.real_part
SECRET = "a-long-secret-of-hers"
MINA = {"X-API-Key": SECRET}
LIST = "/api/sessions?preview=true"


@pytest.fixture
async def pair(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[list[Running]]:
    keys = {"CHATBOT_API_KEYS": f"mina:{SECRET}"}
    async with nodes(tmp_path, await postgres.schema(), model.url, **keys) as running:
        for one in running:
            one.client.headers.update(MINA)
        yield running


async def until(feed: FeedReader, **fields: Any) -> dict[str, Any]:
    while True:
        frame = await feed.next()
        session = frame.get("session", {})
        if session and all(session[name] == value for name, value in fields.items()):
            return frame


async def test_changes_are_seen_at_every_node_and_followed_from_one_to_the_other(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    model.script(pieces=["An answer"])
    session_id = await first.session()
    cursor = (await first.client.get(LIST)).json()["cursor"]
    async with following_changes(second.client, cursor) as feed:
        await first.client.patch(f"/api/sessions/{session_id}", json={"title": "T", "pinned": True})
        await until(feed, session_id=session_id, title="T", pinned=True)
        await first.chat(session_id, "hello")
        frame = await until(feed, unread=True, status="active")
        assert frame["session"]["preview"]["text"] == "An answer"
    marked = (await second.client.post(f"/api/sessions/{session_id}/read")).json()
    assert not marked["unread"]
    async with following_changes(first.client, **{"Last-Event-ID": frame["cursor"]}) as feed:
        await until(feed, session_id=session_id, unread=False)
        await second.client.delete(f"/api/sessions/{session_id}")
        gone = await feed.next()
        assert (gone["type"], gone["session_id"]) == ("gone", session_id)
    async with following_changes(second.client, gone["cursor"]) as feed:
        later = await first.session()
        await until(feed, session_id=later)
    assert (await first.client.get(LIST)).json()["sessions"] == (await second.client.get(LIST)).json()["sessions"]


async def test_a_ticket_of_one_node_opens_a_feed_of_another(pair: list[Running]) -> None:
    first, second = pair
    session_id = await first.session()
    text = (await first.client.post("/api/tickets", json={"session_id": session_id})).json()["ticket"]
    async with httpx.AsyncClient(base_url=second.client.base_url) as stranger:
        path = f"/api/sessions/{session_id}/stream"
        assert (await stranger.get(path)).status_code == 401
        async with stranger.stream("GET", path, params={"ticket": text}) as answer:
            assert answer.status_code == 200
            assert (await FeedReader(answer).next())["type"] == "session"


async def test_a_message_is_taken_back_at_another_node_than_the_one_that_owes_its_reply(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    model.script(pieces=["ok"], hold_after=1)
    session_id = await first.session()
    answers = [asyncio.create_task(first.chat(session_id, "first"))]
    async with following(second.client, session_id, 0) as feed:
        await feed.until("start")
        answers.append(asyncio.create_task(first.chat(session_id, "second")))
        *_, posted = await feed.until("message")
        address = f"/api/sessions/{session_id}/messages/{posted['message_id']}"
        answer = await second.client.delete(address)
        assert answer.status_code == 200, answer.text
        *_, removed = await feed.until("removed")
        assert removed["reply_id"] == posted["reply_id"]
    model.release()
    assert [(await one)["status"] for one in answers] == ["complete", "cancelled"]
    assert len(model.requests) == 1
    for node in pair:
        assert [one["content"] for one in (await node.history(session_id))["messages"]] == ["first", "ok"]


async def test_workers_tell_each_others_readers(tmp_path: Path, model: ModelServer) -> None:
    limits = httpx.Limits(max_keepalive_connections=0)  # each request may come to either worker
    async with (
        two_workers(tmp_path, model) as started,
        httpx.AsyncClient(base_url=started.url, timeout=30, limits=limits) as client,
    ):
        cursor = (await client.get(LIST)).json()["cursor"]
        async with (
            following_changes(client, cursor) as one,
            following_changes(client, cursor) as two,
            following_changes(client, cursor) as three,
        ):
            made = [(await client.post("/api/sessions", json={"title": f"T{n}"})).json() for n in range(6)]
            for feed in (one, two, three):
                seen = dict[str, Any]()
                while len(seen) < len(made):
                    session = (await feed.next())["session"]
                    seen[session["session_id"]] = session
                assert seen == {view["session_id"]: {**view, "preview": None} for view in made}
