"""Clients as people use them read a stream as it is written, leave when they like, and are many."""

import asyncio
import http.client
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.service import Program, frames, program

PIECES = tuple(f"piece{number} " for number in range(8))
PAUSE_S = 0.2
READERS = 100
Timed = list[tuple[float, str]]  # when each line came, by the clock of its reader


@pytest.fixture
async def running(tmp_path: Path, model: ModelServer) -> AsyncIterator[Program]:
    async with program(tmp_path, model.url) as started:
        yield started


async def new_session(running: Program) -> str:
    return (await new_sessions(running, 1))[0]


async def new_sessions(running: Program, count: int) -> list[str]:
    async with httpx.AsyncClient(base_url=running.url) as client:
        return [str((await client.post("/api/sessions")).json()["session_id"]) for _ in range(count)]


def body_of(session_id: str, message: str = "hi") -> str:
    return json.dumps({"session_id": session_id, "message": message})


def check_pieces_came_one_by_one(lines: Timed) -> None:
    chunks = [moment for moment, line in lines if '"chunk"' in line]
    assert len(chunks) >= len(PIECES) - 2, "some may share a frame, not most"
    gaps = [later - earlier for earlier, later in itertools.pairwise(chunks)]
    assert sum(gap > PAUSE_S / 3 for gap in gaps) >= len(PIECES) - 3, f"held back on the way: {gaps}"
    start, *_, complete, done = frames("\n".join(line for _, line in lines).replace("data: [", "\n\ndata: ["))
    assert start["type"] == "start"
    assert complete["full_response"] == "".join(PIECES)
    assert done["type"] == "done"


async def test_httpx_reads_the_stream_as_it_is_written(running: Program, model: ModelServer) -> None:
    model.script(pieces=PIECES, delay_s=PAUSE_S)
    body = body_of(await new_session(running))
    lines: Timed = []
    async with httpx.AsyncClient(base_url=running.url) as client:
        headers = {"Content-Type": "application/json"}
        async with client.stream("POST", "/api/chat/stream", content=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                lines.append((time.monotonic(), line))
    check_pieces_came_one_by_one(lines)


@requires_program("curl")
async def test_curl_reads_the_stream_as_it_is_written(running: Program, model: ModelServer) -> None:
    model.script(pieces=PIECES, delay_s=PAUSE_S)
    body = body_of(await new_session(running))
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sN", "-X", "POST", f"{running.url}/api/chat/stream"),
        *("-H", "Content-Type: application/json", "-d", body),
        stdout=asyncio.subprocess.PIPE,
    )
    lines: Timed = []
    assert curl.stdout
    async for raw in curl.stdout:
        lines.append((time.monotonic(), raw.decode().rstrip("\n")))
    assert await curl.wait() == 0
    check_pieces_came_one_by_one(lines)


async def test_the_standard_librarys_client_reads_the_stream_as_it_is_written(
    running: Program, model: ModelServer
) -> None:
    model.script(pieces=PIECES, delay_s=PAUSE_S)
    body = body_of(await new_session(running))

    def read() -> Timed:
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=20)
        connection.request("POST", "/api/chat/stream", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.getheader("Content-Type", "").startswith("text/event-stream")
        lines = [(time.monotonic(), raw.decode().rstrip("\n")) for raw in iter(answer.readline, b"")]
        connection.close()
        return lines

    check_pieces_came_one_by_one(await asyncio.to_thread(read))


@pytest.mark.parametrize("leaving", ["closes", "resets"])
async def test_a_reader_that_leaves_stops_neither_the_reply_nor_the_other_readers(
    running: Program, model: ModelServer, leaving: str
) -> None:
    model.script(times=None, pieces=PIECES, hold_after=2)
    left, kept = await new_session(running), await new_session(running)
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        staying = asyncio.create_task(client.post("/api/chat/stream", json=json.loads(body_of(kept))))
        await asyncio.to_thread(read_a_little, running.url, body_of(left), abruptly=leaving == "resets")
        await model.wait_requests(2)
        assert await metric(client, "chatbot_open_streams", wanted=1) == 1
        model.release()
        assert frames((await staying).text)[-2]["full_response"] == "".join(PIECES)
        async with asyncio.timeout(5):
            while (last := await last_message(client, left))["status"] == "streaming":
                await asyncio.sleep(0.02)
        assert (last["status"], last["content"]) == ("complete", "".join(PIECES))
        assert await metric(client, "chatbot_open_streams", wanted=0) == 0
        assert not model.aborted


def read_a_little(url: str, body: str, *, abruptly: bool) -> None:
    """Read up to the first text, then go."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        raw = body.encode()
        head = "POST /api/chat/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        connection.sendall(f"{head}{len(raw)}\r\n\r\n".encode() + raw)
        seen = b""
        while b'"chunk"' not in seen:
            seen += connection.recv(4096)
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def last_message(client: httpx.AsyncClient, session_id: str) -> dict[str, Any]:
    return dict((await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"][-1])


async def metric(client: httpx.AsyncClient, sample: str, wanted: float) -> float:
    """The value, once it is what is wanted, or what it is after a while."""
    value, give_up_s = -1.0, time.monotonic() + 5
    while value != wanted and time.monotonic() < give_up_s:
        text = (await client.get("/metrics")).text
        (value,) = [float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{sample} ")]
    return value


async def test_a_hundred_streams_at_once_are_each_complete_and_exact(running: Program, model: ModelServer) -> None:
    model.delay_s = 0.02
    ids = await new_sessions(running, READERS)
    limits = httpx.Limits(max_connections=READERS)
    async with httpx.AsyncClient(base_url=running.url, timeout=60, limits=limits) as client:
        asked = [f"number {number} 안녕 {os.urandom(4).hex()} and so on" for number in range(READERS)]
        answers = await asyncio.gather(
            *(
                client.post("/api/chat/stream", json={"session_id": session_id, "message": message})
                for session_id, message in zip(ids, asked, strict=True)
            )
        )
        for session_id, message, answer in zip(ids, asked, answers, strict=True):
            check_exact(frames(answer.text), session_id, f"You said: {message}")
        histories = await asyncio.gather(*(last_message(client, session_id) for session_id in ids))
        assert [one["content"] for one in histories] == [f"You said: {message}" for message in asked]
        assert await metric(client, "chatbot_open_streams", wanted=0) == 0


def check_exact(seen: list[dict[str, Any]], session_id: str, text: str) -> None:
    start, *chunks, complete, done = seen
    assert (start["type"], start["session_id"]) == ("start", session_id)
    offset = 0
    for chunk in chunks:
        offset += len(chunk["content"])
        assert chunk["cursor"].endswith(f":{offset}")
    assert "".join(chunk["content"] for chunk in chunks) == complete["full_response"] == text
    assert done == {"type": "done"}
