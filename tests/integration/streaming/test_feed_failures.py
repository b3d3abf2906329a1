"""A feed when things go: its content, its session, its service, its reader."""

import asyncio
import json
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from events.catalogue import ContentErased, Event, MessagePosted, ReplyProgressed, ReplyStarted, SessionCreated
from events.catalogue import Parameters as NoParameters
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.http.feed_reader import following, kinds_of, text_of
from tests.support.log.log_files import foreign
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.service import Program, Running, frames, program, serving

SESSION = "5b4f2c1e-0000-4000-8000-000000000002"


async def test_a_cursor_past_the_end_is_told_to_read_anew_then_goes_on(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    answer = await service.chat(session_id, "one")
    async with following(service.client, session_id, "999:5") as feed:
        resync = await feed.next()
        assert (resync["type"], resync["version"]) == ("resync", answer["version"])
        assert resync["cursor"] == f"{answer['version']}:0"
        assert resync["retry"] == "1000"
        await service.chat(session_id, "two")
        assert kinds_of(await feed.until("complete")) == ["message", "start", "chunk", "complete"]


@pytest.mark.parametrize("after", ["0", "1:0", "3:4"])
async def test_a_cursor_into_erased_content_is_told_to_read_anew_once(service: Running, after: str) -> None:
    session_id = await service.session()
    version = (await service.chat(session_id, "one"))["version"]
    erased: Event = ContentErased("request", version, 3600)
    await service.services.log.erase(session_id, version, erased, Metadata())
    async with following(service.client, session_id, after) as feed:
        resync = await feed.next()
        assert (resync["type"], resync["cursor"]) == ("resync", f"{version + 1}:0")
        await service.chat(session_id, "two")
        assert kinds_of(await feed.until("complete")) == ["message", "start", "chunk", "complete"]


async def test_a_reader_that_lags_when_the_session_is_deleted_is_told_so(tmp_path: Path, model: ModelServer) -> None:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    posted = [MessagePosted(f"m{n}", None, "user", "x" * 200_000) for n in range(80)]
    await log.append(SESSION, 0, [SessionCreated(owner=None, metadata={}, timeout_s=3600), *posted], Metadata())
    await log.close()
    async with serving(tmp_path, model.url) as service:
        url = service.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port, limit=2**16)
        writer.write(f"GET /api/sessions/{SESSION}/stream?after=0 HTTP/1.0\r\n\r\n".encode())
        await reader.readuntil(b"\n\n")
        await asyncio.sleep(0.3)  # the socket is full by now: the reader takes nothing
        assert (await service.client.delete(f"/api/sessions/{SESSION}")).status_code == 204
        async with asyncio.timeout(20):
            seen = frames((await reader.read(-1)).decode())
        writer.close()
        assert kinds_of(seen)[-2:] == ["deleted", "done"]
        assert len(seen) < len(posted), "it lagged"
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_after_a_crash_the_error_says_how_much_of_the_text_was_kept(tmp_path: Path, model: ModelServer) -> None:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    left_open: list[Event] = [
        SessionCreated(owner=None, metadata={}, timeout_s=3600),
        MessagePosted("m", None, "user", "count", reply_id="r"),
        ReplyStarted("r", "m", "node", "openai", "x", NoParameters(), ("m",)),
        ReplyProgressed("r", 0, "0123"),
    ]
    await log.append(SESSION, 0, left_open, Metadata())
    await log.close()
    async with serving(tmp_path, model.url) as service:
        for cursor, rest in (("3:0", "0123"), ("3:2", "23"), ("3:6", ""), ("4:6", ""), ("4", "")):
            async with following(service.client, SESSION, cursor) as feed:
                seen = await feed.until("error")
                assert text_of(seen) == rest
                assert (seen[-1]["message_id"], seen[-1]["length"], seen[-1]["version"]) == ("r", 4, 5)
                assert seen[-1]["status"] == "interrupted"


async def open_session(running: Program) -> str:
    async with httpx.AsyncClient(base_url=running.url) as client:
        return str((await client.post("/api/sessions")).json()["session_id"])


async def test_a_feed_ends_with_the_service_and_goes_on_with_the_next(tmp_path: Path, model: ModelServer) -> None:
    settings = {
        "CHATBOT_SERVER_DRAIN_GRACE_S": "0.2",
        "CHATBOT_STREAM_SSE_RETRY_S": "0.5",
        "CHATBOT_SERVER_STREAM_CLOSE_TIMEOUT_S": "15",
    }
    model.script(pieces=("partial ", "never"), hold_after=1)
    async with program(tmp_path, model.url, **settings) as first:
        session_id = await open_session(first)
        async with httpx.AsyncClient(base_url=first.url, timeout=20) as client:
            body = {"session_id": session_id, "message": "hi"}
            async with (
                following(client, session_id, 0) as feed,
                client.stream("POST", "/api/chat/stream", json=body) as answer,
            ):
                seen = await feed.until("chunk")
                started_s = time.monotonic()
                stopping = asyncio.create_task(first.stop())
                seen += await feed.until("draining")
                assert (await feed.next())["type"] == "end", "no [DONE]: it goes on"
                posted = "".join([piece async for piece in answer.aiter_text()])
                assert await stopping == 0
                assert time.monotonic() - started_s < 10, "nobody had to be cut off"
    assert kinds_of(seen) == ["session", "message", "start", "chunk", "error", "draining"]
    error, draining = seen[-2:]
    assert (error["status"], error["length"], error["retry"]) == ("interrupted", len("partial "), None)
    assert (draining["retry"], draining["cursor"]) == ("500", error["cursor"])
    assert f"retry: 500\nid: {error['cursor']}\n" in posted
    assert first.log("drain.feeds")[0]["open"] == 1
    async with (
        program(tmp_path, model.url, **settings) as second,
        httpx.AsyncClient(base_url=second.url, timeout=20) as client,
        following(client, session_id, draining["cursor"]) as feed,
    ):
        await client.post("/api/chat", json={"session_id": session_id, "message": "again"})
        assert kinds_of(await feed.until("complete")) == ["message", "start", "chunk", "complete"]


async def test_a_feed_that_is_asked_for_too_late_is_sent_away_at_once(service: Running) -> None:
    session_id = await service.session()
    service.services.feeds.close()
    async with following(service.client, session_id, "1:0") as feed:
        draining = await feed.next()
        assert (draining["type"], draining["cursor"], draining["retry"]) == ("draining", "1:0", "1000")
        assert (await feed.next())["type"] == "end"


async def test_an_end_that_cannot_be_recorded_yet_is_told_once_it_is(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_DATABASE_BUSY_TIMEOUT_S="0.1") as service:
        model.script(pieces=("one ", "two"), hold_after=1)
        session_id = await service.session()
        async with following(service.client, session_id) as feed:
            body = {"session_id": session_id, "message": "hi"}
            async with service.client.stream("POST", "/api/chat/stream", json=body) as answer:
                await feed.until("chunk")
                other = await asyncio.to_thread(foreign, tmp_path / "chatbot.db", "BEGIN IMMEDIATE")
                model.release()
                posted = frames("".join([piece async for piece in answer.aiter_text()]))
                other.close()
            assert (posted[-2]["status"], posted[-2]["length"]) == ("unrecorded", len("one two"))
            assert posted[-2]["cursor"] == f"{posted[0]['version']}:{len('one two')}"
            complete = (await feed.until("complete"))[-1]
        async with following(service.client, session_id, posted[-2]["cursor"]) as feed:
            (again,) = await feed.until("complete")
        assert again["full_response"] == complete["full_response"] == "one two"


@requires_program("curl")
async def test_curl_follows_a_session_to_its_end(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running:
        session_id = await open_session(running)
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sN", f"{running.url}/api/sessions/{session_id}/stream?after=0"), stdout=asyncio.subprocess.PIPE
        )
        assert curl.stdout is not None
        written = b""
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client, asyncio.timeout(20):
            while b"session" not in written:
                written += await curl.stdout.readuntil(b"\n\n")
            await client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
            while b"complete" not in written:
                written += await curl.stdout.readuntil(b"\n\n")
            await client.delete(f"/api/sessions/{session_id}")
            written += await curl.stdout.read()
            assert await curl.wait() == 0
    turn = ["session", "message", "start", "chunk", "complete"]
    assert kinds_of(frames(written.decode())) == [*turn, "deleted", "done"]


@pytest.mark.parametrize("path", ["/api/chat/stream", "/api/sessions/{}/stream"])
async def test_a_reader_that_leaves_before_the_headers_leaves_no_trace(
    tmp_path: Path, model: ModelServer, path: str
) -> None:
    async with program(tmp_path, model.url) as running:
        session_id = await open_session(running)
        for number in range(30):
            await asyncio.to_thread(ask_and_leave, running.url, path.format(session_id), session_id, number / 10_000)
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            assert (await client.get("/livez")).status_code == 200
        assert await running.stop() == 0
        output = "".join(running.output)
    assert "Traceback" not in output
    assert not running.log("request.failed")


def ask_and_leave(url: str, path: str, session_id: str, pause_s: float) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    method = "POST" if path == "/api/chat/stream" else "GET"
    raw = json.dumps({"session_id": session_id, "message": "hi"}).encode() if method == "POST" else b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        time.sleep(pause_s)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_the_trouble_of_a_start_passes_for_an_event_source(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    runner: Any = service.services.runner
    await runner.queries._reader.close()  # as while the projections are being replaced
    path = f"/api/sessions/{session_id}/stream"
    try:
        assert (await service.client.get(path)).status_code == 503
        answer = await service.client.get(path, headers={"Accept": "text/event-stream"})
        assert answer.status_code == 200
        assert answer.text.startswith("retry: 1000\n: ")
    finally:
        await runner.queries._reader.open()
