"""Workers of one machine serve the same sessions, over one file: whichever of them takes a connection."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from tests.support.http.feed_reader import FeedReader, following, text_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Program
from tests.support.worker_processes import WAIT_TIMEOUT_S, create, pids, two_workers, until

PIECES = ("one ", "two ", "three")
TEXT = "".join(PIECES)
READERS = 8  # connections of their own: both workers get some
BRISK = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "60"}


def client_of(started: Program) -> httpx.AsyncClient:
    """One that keeps no connection, so that each request may come to either worker."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=started.url, timeout=30, limits=limits)


async def newest(client: httpx.AsyncClient, session_id: str) -> str:
    """The status of a session's reply."""
    question, reply = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"]
    assert question["status"] == "complete"
    return str(reply["status"])


async def read_all(feed: FeedReader) -> None:
    """Return once the reader has all of the text."""
    seen = await feed.until("start")
    while text_of(seen) != TEXT:
        seen.append(await feed.next())


async def test_readers_at_both_workers_follow_one_reply_and_any_worker_cancels_it(
    tmp_path: Path, model: ModelServer
) -> None:
    async with (
        two_workers(tmp_path, model, **BRISK) as started,
        client_of(started) as client,
        AsyncExitStack() as stack,
    ):
        session_id = await create(client)
        model.script(pieces=PIECES, hold_after=len(PIECES))
        asked = asyncio.create_task(client.post("/api/chat", json={"session_id": session_id, "message": "hi"}))
        feeds = [await stack.enter_async_context(following(client, session_id, 0)) for _ in range(READERS)]
        await asyncio.gather(*(read_all(feed) for feed in feeds))
        answers = await asyncio.gather(*(client.post(f"/api/sessions/{session_id}/cancel") for _ in range(4)))
        await model.wait_aborted()
        assert sorted(answer.status_code for answer in answers)[-1] == 202
        assert (await asked).json()["status"] == "cancelled"
        for feed in feeds:
            (error,) = [frame for frame in await feed.until("error") if frame["type"] == "error"]
            assert (error["status"], error["length"]) == ("cancelled", len(TEXT))


async def test_messages_posted_through_both_workers_are_answered_once_each_in_their_order(
    tmp_path: Path, model: ModelServer
) -> None:
    async with two_workers(tmp_path, model) as started, client_of(started) as client:
        sessions = [await create(client) for _ in range(3)]
        posts = [
            client.post(
                "/api/chat", json={"session_id": session_id, "message": f"m{number}"}, headers={"Idempotency-Key": key}
            )
            for session_id in sessions
            for number in range(6)
            for key in [f"key-{number}"] * 2
        ]
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} == {200}
        for at, session_id in enumerate(sessions):
            told = {answer.json()["message_id"] for answer in answers[at * 12 : at * 12 + 12]}
            messages = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"]
            replies = [one for one in messages if one["role"] == "assistant"]
            assert {one["message_id"] for one in replies} == told
            assert len(messages) == 12
            assert all(one["status"] == "complete" for one in messages)


async def test_the_replies_of_a_killed_worker_are_closed_and_those_of_the_other_go_on(
    tmp_path: Path, model: ModelServer
) -> None:
    model.script(times=None, pieces=PIECES, hold_after=len(PIECES))
    async with (
        two_workers(tmp_path, model, CHATBOT_NODES_SWEEP_INTERVAL_S="0.2") as started,
        client_of(started) as client,
    ):
        sessions = [await create(client) for _ in range(16)]
        bodies = [{"session_id": session_id, "message": "hi"} for session_id in sessions]
        asked = [asyncio.create_task(client.post("/api/chat", json=body)) for body in bodies]
        await until(lambda: len(model.requests) == len(sessions))
        os.kill(pids(started)[0], signal.SIGKILL)
        await until(lambda: any(task.done() for task in asked))
        model.release()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        went_on = [one for one in outcomes if isinstance(one, httpx.Response)]
        assert 0 < len(went_on) < len(sessions), "each worker had some of the connections"
        assert {one.json()["content"] for one in went_on} == {TEXT}
        for session_id, outcome in zip(sessions, outcomes, strict=True):
            wanted = "complete" if isinstance(outcome, httpx.Response) else "interrupted"
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                while (reply := await newest(client, session_id)) == "streaming":
                    await asyncio.sleep(0.05)
            assert reply == wanted
