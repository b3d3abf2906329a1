"""A session's feed over real sockets: a reader that reconnects gets exactly what it missed, then live events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from events.catalogue import ReplyProgressed
from tests.support.http.feed_reader import FeedReader, following, kinds_of, text_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

PIECES = ("안", "녕", "e\u0301", "👩‍👩", " ok")
TEXT = "".join(PIECES)


@pytest.fixture
async def brisk(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    """Records a running reply's text twenty times a second."""
    async with serving(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="0.05") as running:
        yield running


async def running_reply(service: Running, model: ModelServer, **script: Any) -> tuple[str, str, asyncio.Task[Any]]:
    """A session whose reply has all of its text and does not end until `model.release()`; its start's cursor."""
    model.script(pieces=script.pop("pieces", PIECES), hold_after=len(PIECES), **script)
    session_id = await service.session()
    chatting = asyncio.create_task(service.chat(session_id, "hi"))
    async with following(service.client, session_id, 0) as feed:
        seen = await feed.until("start")
        while text_of(seen) != TEXT:
            seen.append(await feed.next())
    (start,) = [frame for frame in seen if frame["type"] == "start"]
    return session_id, start["cursor"], chatting


async def test_a_reader_takes_up_a_running_reply_at_every_character(service: Running, model: ModelServer) -> None:
    session_id, start, chatting = await running_reply(service, model)
    version = start.partition(":")[0]
    async with AsyncExitStack() as stack:
        readers: list[FeedReader] = []
        for offset in range(len(TEXT) + 1):
            feed = await stack.enter_async_context(following(service.client, session_id, f"{version}:{offset}"))
            readers.append(feed)
            if offset < len(TEXT):
                chunk = await feed.next()
                assert (chunk["content"], chunk["cursor"]) == (TEXT[offset:], f"{version}:{len(TEXT)}")
        model.release()
        answer = await chatting
        for feed in readers:
            complete = await feed.next()
            assert (complete["type"], complete["full_response"]) == ("complete", TEXT)
            assert complete["message_id"] == answer["message_id"]


async def check_after_its_end(service: Running, session_id: str, version: int, answer: dict[str, Any]) -> None:
    """Take up a reply that has ended at every character of it."""
    for offset in range(len(TEXT) + 1):
        async with following(service.client, session_id, f"{version}:{offset}") as feed:
            seen = await feed.until("complete")
            assert text_of(seen, answer["message_id"]) == TEXT[offset:]
            assert kinds_of(seen) == (["chunk", "complete"] if offset < len(TEXT) else ["complete"])
            assert seen[-1]["created_at"] == answer["created_at"], "when it started, as the history says"
            assert seen[-1]["cursor"] == f"{answer['version']}:0"


async def test_a_reader_takes_up_a_reply_that_has_ended_and_after_a_restart(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        model.script(pieces=PIECES)
        session_id = await service.session()
        answer = await service.chat(session_id, "hi")
        await check_after_its_end(service, session_id, answer["version"] - 1, answer)
    async with serving(tmp_path, model.url) as service:
        await check_after_its_end(service, session_id, answer["version"] - 1, answer)


async def test_text_comes_as_it_is_written_not_when_it_is_recorded(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="30") as service:
        model.script(pieces=PIECES, delay_s=0.1)
        session_id = await service.session()
        chatting = asyncio.create_task(service.chat(session_id, "hi"))
        async with following(service.client, session_id, 0) as feed:
            seen = await feed.until("complete")
        assert text_of(seen) == TEXT
        assert sum(frame["type"] == "chunk" for frame in seen) >= len(PIECES) - 2, "some may share a frame"
        await chatting


async def test_from_the_beginning_everything_is_told_in_order(brisk: Running, model: ModelServer) -> None:
    model.script(pieces=PIECES, delay_s=0.04)
    session_id = await brisk.session(title="T", metadata={"a": 1})
    answer = await brisk.chat(session_id, "hi")
    async with following(brisk.client, session_id, 0) as feed:
        seen = await feed.until("complete")
    assert kinds_of(seen) == ["session", "message", "start", "chunk", "complete"]
    session, message, start, *_ = seen
    assert (session["title"], session["metadata"], session["cursor"]) == ("T", {"a": 1}, "1:0")
    assert (message["message_id"], message["content"]) == (answer["user_message_id"], "hi")
    assert message["reply_id"] == start["message_id"] == answer["message_id"]
    assert start["user_message_id"] == message["message_id"]
    assert text_of(seen) == TEXT
    for frame in seen:  # a reader cut off after any of them misses nothing
        async with following(brisk.client, session_id, **{"Last-Event-ID": frame["cursor"]}) as again:
            has = sum(len(one["content"]) for one in seen[: seen.index(frame) + 1] if one["type"] == "chunk")
            if frame is not seen[-1]:
                assert text_of(await again.until("complete")) == TEXT[has:]


async def test_without_a_cursor_it_begins_with_the_session_and_now(service: Running, model: ModelServer) -> None:
    session_id, _, chatting = await running_reply(service, model)
    async with following(service.client, session_id) as feed:
        first = await feed.next()
        assert (first["type"], first["session_id"], first["retry"]) == ("session", session_id, "1000")
        assert first["cursor"].partition(":")[2] == str(len(TEXT))
        model.release()
        assert (await feed.next())["type"] == "complete"
        assert (await chatting)["content"] == TEXT


async def test_last_event_id_goes_before_the_query(service: Running) -> None:
    session_id = await service.session()
    answer = await service.chat(session_id, "hi")
    async with following(service.client, session_id, 0, **{"Last-Event-ID": f"{answer['version'] - 1}:3"}) as feed:
        assert (await feed.next())["content"] == answer["content"][3:]
    async with following(service.client, session_id, 0, **{"Last-Event-ID": ""}) as feed:
        assert (await feed.next())["type"] == "session"


async def test_history_then_feed_miss_nothing_and_repeat_nothing(brisk: Running, model: ModelServer) -> None:
    text = "".join(f"{number:03} " for number in range(60))
    model.script(pieces=tuple(text), stepwise=True)
    session_id = await brisk.session()
    chatting = asyncio.create_task(brisk.chat(session_id, "hi"))
    lengths: set[int] = set()

    async def read() -> tuple[dict[str, Any], dict[str, Any], str]:
        history = await brisk.history(session_id)
        last = history["messages"][-1] if history["messages"] else {"content": "", "role": "user"}
        shown = last["content"] if last["role"] == "assistant" else ""
        assert history["cursor"] == f"{history['version']}:{0 if last.get('status') == 'complete' else len(shown)}"
        return history, last, shown

    async def follow(cursor: str, history: dict[str, Any], last: dict[str, Any], shown: str) -> None:
        lengths.add(len(shown))
        if last["role"] == "assistant" and last["status"] == "complete":
            return
        async with following(brisk.client, session_id, history[cursor]) as feed:
            assert shown + text_of(await feed.until("complete")) == text

    async def read_and_follow(cursor: str) -> None:
        await follow(cursor, *await read())

    async with asyncio.TaskGroup() as readers:
        for number in range(len(text)):
            if number % 5 == 0:  # reads sooner or later
                readers.create_task(read_and_follow("cursor" if number % 2 else "version"))
            if number % 20 == 0:  # reads at this length, as the model waits
                async with asyncio.timeout(20):
                    while len((found := await read())[2]) < number:
                        await asyncio.sleep(0.005)
                for cursor in ("cursor", "version"):
                    readers.create_task(follow(cursor, *found))
            model.step()
            await asyncio.sleep(0)
    await chatting
    assert len(lengths) > 5, "the reply was seen at several lengths"


async def test_a_version_alone_stands_for_what_was_recorded_by_then(brisk: Running, model: ModelServer) -> None:
    model.script(pieces=PIECES, delay_s=0.08)
    session_id = await brisk.session()
    answer = await brisk.chat(session_id, "hi")
    log = await brisk.services.log.read(session_id, limit=100)
    ends = {
        one.version: one.event.offset + len(one.event.text) for one in log if isinstance(one.event, ReplyProgressed)
    }
    assert len(ends) > 1
    for version, end in ends.items():
        async with following(brisk.client, session_id, version) as feed:
            assert text_of(await feed.until("complete"), answer["message_id"]) == TEXT[end:]


async def test_a_queued_messages_stream_is_taken_up_after_the_reply_ahead_of_it(
    service: Running, model: ModelServer
) -> None:
    session_id, _, chatting = await running_reply(service, model, pieces=(*PIECES, "!", "?"))
    body = {"session_id": session_id, "message": "two"}
    async with service.client.stream("POST", "/api/chat/stream", json=body) as answer:
        posted = FeedReader(answer)
        queued = await posted.next()
        assert queued["cursor"] == f"{queued['version']}:{len(TEXT)}"
        model.release()
        streamed = await posted.until("done")
    async with following(service.client, session_id, queued["cursor"]) as feed:
        seen = await feed.until("complete")
        assert text_of(seen) == "!?", "no more of the reply ahead than its rest"
        assert seen[-1]["full_response"] == TEXT + "!?"
        seen = await feed.until("complete")
    assert seen[-1]["message_id"] == queued["message_id"]
    assert text_of(seen) == streamed[-2]["full_response"] == "You said: two"
    await chatting


async def test_two_devices_see_the_same(service: Running, model: ModelServer) -> None:
    model.delay_s = 0.01
    session_id = await service.session()
    async with following(service.client, session_id) as one, following(service.client, session_id) as other:
        first, second = await service.chat(session_id, "one"), await service.chat(session_id, "two")
        for feed in (one, other):
            seen = [*await feed.until("complete"), *await feed.until("complete")]
            turn = ["message", "start", "chunk", "complete"]
            assert kinds_of(seen) == ["session", *turn, *turn]
            assert text_of(seen, first["message_id"]) == "You said: one"
            assert text_of(seen, second["message_id"]) == "You said: two"


async def test_a_cancelled_reply_ends_in_the_feed_and_nothing_follows(service: Running, model: ModelServer) -> None:
    session_id, start, chatting = await running_reply(service, model, pieces=(*PIECES, "never"))
    async with following(service.client, session_id, start) as feed:
        assert text_of([await feed.next()]) == TEXT
        await service.client.post(f"/api/sessions/{session_id}/cancel")
        error = await feed.next()
        assert (error["type"], error["status"], error["length"]) == ("error", "cancelled", len(TEXT))
        assert error["cursor"] == f"{error['version']}:0"
        model.release()
        assert error["message_id"] == (await chatting)["message_id"]
        assert await feed.is_silent(0.3)


async def test_what_happens_to_the_session_is_told(service: Running) -> None:
    session_id = await service.session()
    async with following(service.client, session_id) as feed:
        await feed.next()
        await service.client.patch(f"/api/sessions/{session_id}", json={"title": "T", "metadata": {"a": 1}})
        session = await feed.next()
        assert (session["type"], session["title"], session["metadata"]) == ("session", "T", {"a": 1})
        assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        kinds = [(await feed.next())["type"] for _ in range(3)]
        assert kinds == ["deleted", "done", "end"]
    gone = await service.client.get(f"/api/sessions/{session_id}/stream", headers={"Accept": "text/event-stream"})
    assert (gone.status_code, gone.json()["type"]) == (404, "/problems/session-deleted")


async def test_a_selected_branch_is_told(service: Running) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    await service.chat(session_id, "two", parent_id=None)
    async with following(service.client, session_id) as feed:
        await feed.next()
        body = {"message_id": first["message_id"]}
        assert (await service.client.post(f"/api/sessions/{session_id}/branch", json=body)).status_code == 200
        branch = await feed.next()
        assert (branch["type"], branch["message_id"]) == ("branch", first["message_id"])


async def test_an_expired_session_ends_its_feed(service: Running) -> None:
    session_id = await service.session(timeout_hours=2 / 3600)
    async with following(service.client, session_id) as feed:
        kinds = [(await feed.next())["type"] for _ in range(4)]
    assert kinds == ["session", "expired", "done", "end"]


@pytest.mark.parametrize("after", ["x", "1:", ":1", "-1", "1:2:3", "1e3", "1" * 16, "1 ", "١", ""])
async def test_a_cursor_that_is_none_is_refused_where_it_stands(service: Running, after: str) -> None:
    session_id = await service.session()
    path = f"/api/sessions/{session_id}/stream"
    answer = await service.client.get(path, params={"after": after})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "query.after")
    if after and after.isascii():
        answer = await service.client.get(path, headers={"Last-Event-ID": f"{after}x"})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "header.Last-Event-ID")


async def test_other_requests_of_the_feed_are_refused_as_everywhere(service: Running) -> None:
    session_id = await service.session()
    path = f"/api/sessions/{session_id}/stream"
    assert (await service.client.get(path, params={"from": "1"})).status_code == 422
    assert (await service.client.head(path)).status_code == 405
    assert (await service.client.get("/api/sessions/nothing/stream")).status_code == 404
    unknown = "00000000-0000-4000-8000-000000000000"
    answer = await service.client.get(f"/api/sessions/{unknown}/stream", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 404, "an event source is not to come back for it"


async def test_a_reader_counts_as_an_access(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_ACCESS_RESOLUTION_S="0") as service:
        session_id = await service.session()
        async with following(service.client, session_id, 0) as feed:
            await feed.next()
        assert (await service.services.log.read(session_id, limit=1, backwards=True))[0].type == "session_accessed"


async def test_in_passing_trouble_an_event_source_is_asked_to_come_back(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_STREAM_READERS_MAX": "1", "CHATBOT_STREAM_SSE_RETRY_S": "2.5"}
    async with serving(tmp_path, model.url, **settings) as service:
        session_id = await service.session()
        path = f"/api/sessions/{session_id}/stream"
        async with following(service.client, session_id) as feed:
            assert (await feed.next())["retry"] == "2500"
            problem = await service.client.get(path)
            assert (problem.status_code, problem.json()["type"]) == (503, "/problems/overloaded")
            answer = await service.client.get(path, headers={"Accept": "text/event-stream"})
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.text == "retry: 2500\n: too many streams are open\n\n"
            body = {"session_id": session_id, "message": "hi"}
            refused = await service.client.post("/api/chat/stream", json=body)
            assert refused.status_code == 503
            assert (await service.history(session_id))["messages"] == [], "nothing was posted"
        async with asyncio.timeout(10):  # the first of two writes tells the service that its reader has left
            while service.services.feeds.count:
                await asyncio.sleep(0.01)
        async with following(service.client, session_id):
            pass


async def test_three_hundred_readers_of_one_reply_each_get_every_character(
    service: Running, model: ModelServer
) -> None:
    text = "".join(f"{number:04} " for number in range(60))
    model.script(pieces=tuple(text[at : at + 5] for at in range(0, len(text), 5)), delay_s=0.005, first_delay_s=1.0)
    session_id = await service.session()
    chatting = asyncio.create_task(service.chat(session_id, "hi"))
    wide = httpx.AsyncClient(base_url=service.client.base_url, timeout=60, limits=httpx.Limits(max_connections=None))
    resting = asyncio.Event()

    async def read(number: int) -> str:
        async with following(wide, session_id, 0) as feed:
            if number == 0:
                await resting.wait()
            return text_of(await feed.until("complete"))

    async with wide:
        readers = [asyncio.create_task(read(number)) for number in range(300)]
        async with asyncio.timeout(10):
            while service.services.feeds.count < 300:
                await asyncio.sleep(0.01)
        channels = service.services.feeds._channels
        assert len(channels) == 1, "what is recorded is kept once, not once for each reader"
        await chatting
        resting.set()
        assert set(await asyncio.gather(*readers)) == {text}
    async with asyncio.timeout(5):
        while channels:
            await asyncio.sleep(0.01)
