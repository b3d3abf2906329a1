"""One round of the crash suite: load on the real program, kill -9 at a random instant, start again, check the promises.

Meanwhile readers follow sessions; they come back by themselves, and in the end have every character.

As a command, for as many rounds as you like: `python -m tests.crash.rounds --rounds 50`.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.crash.crash_readers import CrashReader, check_all, following
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import free_port
from tests.support.service import Program

CLIENTS = 6
READERS = 4
KILL_AFTER_S = (0.0, 0.9)  # once the first session is there
ENDED = {"complete", "failed", "cancelled", "interrupted"}


class Acknowledged(Struct):
    """What clients were told before the kill: to be found again after it. `transcripts` are those of named
    conversations, by name: each with its session and its messages, the last one a reply.
    """

    sessions: set[str]
    deleted: set[str]
    deleting: set[str]
    messages: dict[str, tuple[str, str]]  # message id: session id, content ("" where only the id was told)
    transcripts: dict[str, tuple[str, list[dict[str, str]]]]


async def one_client(url: str, told: Acknowledged, seed: int) -> None:
    """Create, chat, stream and delete until the server dies."""
    rng = random.Random(seed)
    sessions: list[str] = []
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        while True:
            try:
                await one_step(client, told, sessions, rng)
            except (httpx.TransportError, httpx.StreamError):
                return


async def one_step(client: httpx.AsyncClient, told: Acknowledged, sessions: list[str], rng: random.Random) -> None:
    act = rng.random()
    if not sessions or act < 0.2:
        answer = await client.post("/api/sessions", json={"metadata": {"n": rng.random()}})
        if answer.status_code == 201:
            sessions.append(answer.json()["session_id"])
            told.sessions.add(sessions[-1])
    elif act < 0.25:
        session_id = sessions.pop(rng.randrange(len(sessions)))
        told.deleting.add(session_id)
        if (await client.delete(f"/api/sessions/{session_id}")).status_code == 204:
            told.deleted.add(session_id)
    elif act < 0.4:
        name = f"chat-{id(sessions)}-{rng.randrange(3)}"  # of this client
        _, messages = told.transcripts.get(name, ("", []))
        await post_transcript(client, told, name, [*messages, {"role": "user", "content": f"q {rng.random()}"}])
    elif act < 0.65:
        session_id = rng.choice(sessions)
        answer = await client.post("/api/chat", json={"session_id": session_id, "message": f"q {rng.random()}"})
        if answer.status_code == 200:
            body = answer.json()
            told.messages[body["message_id"]] = (session_id, body["content"])
    else:
        session_id = rng.choice(sessions)
        body = {"session_id": session_id, "message": f"q {rng.random()}"}
        async with client.stream("POST", "/api/chat/stream", json=body) as answer:
            async for line in answer.aiter_lines():
                note(line, session_id, told)


async def post_transcript(
    client: httpx.AsyncClient, told: Acknowledged, name: str, messages: list[dict[str, str]]
) -> httpx.Response:
    body = {"model": "fake-model", "messages": messages}
    answer = await client.post("/v1/chat/completions", json=body, headers={"X-Session-Id": name})
    if answer.status_code == 200:
        session_id, reply = answer.headers["X-Session-Id"], answer.json()["choices"][0]["message"]
        told.sessions.add(session_id)
        told.messages[answer.json()["id"].removeprefix("chatcmpl-")] = (session_id, reply["content"])
        told.transcripts[name] = (session_id, [*messages, {"role": "assistant", "content": reply["content"]}])
    return answer


def note(line: str, session_id: str, told: Acknowledged) -> None:
    """Remember what a frame acknowledges."""
    if '"type":"start"' in line:
        start = httpx.Response(200, text=line.removeprefix("data: ")).json()
        told.messages[start["user_message_id"]] = (session_id, "")
    elif '"type":"complete"' in line:
        complete = httpx.Response(200, text=line.removeprefix("data: ")).json()
        told.messages[complete["message_id"]] = (session_id, complete["full_response"])


class CrashKind(Struct, frozen=True):
    """`gently`: SIGTERM, not SIGKILL. `retries`: interrupted replies are generated again."""

    gently: bool = False
    retries: bool = False


async def crash_round(folder: Path, model_url: str, seed: int, kind: CrashKind) -> Acknowledged:
    """Returns what had been told. Raises AssertionError when a promise is broken."""
    rng = random.Random(seed)
    told = Acknowledged(set(), set(), set(), {}, {})
    settings = {
        "PORT": str(free_port()),  # it is to come back where its readers look for it
        "CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05",
        "CHATBOT_STREAM_SSE_RETRY_S": "0.1",
        "CHATBOT_SERVER_DRAIN_PAUSE_S": "0",
        "CHATBOT_SERVER_DRAIN_GRACE_S": "0",
        "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": str(int(kind.retries)),
    }
    program = await Program.start(folder, model_url, **settings)
    clients = [asyncio.create_task(one_client(program.url, told, rng.randrange(2**32))) for _ in range(CLIENTS)]
    seeds = [rng.randrange(2**32) for _ in range(READERS)]
    async with following(program.url, lambda: told.sessions - told.deleting, seeds) as readers:
        async with asyncio.timeout(20):
            while not told.sessions:  # a kill before the first word would prove nothing
                await asyncio.sleep(0.005)
        await asyncio.sleep(rng.uniform(*KILL_AFTER_S))
        await end(program, readers, kind)
        await asyncio.gather(*clients)
        await check_log(folder / "chatbot.db")
        again = await Program.start(folder, model_url, **settings)
        try:
            await check_service(again.url, told, kind)
            if told.sessions - told.deleting:
                await check_all(again.url, readers)
        except BaseException:
            await again.kill()
            raise
    assert await again.stop() == 0
    await check_log(folder / "chatbot.db")
    for reader in readers:
        if told.sessions - told.deleting:
            await reader.check_told(folder / "chatbot.db")
    return told


async def end(program: Program, readers: list[CrashReader], kind: CrashKind) -> None:
    """A service that is asked to go says so to those who follow."""
    if not kind.gently:
        await program.kill()
        return
    there = [(reader, reader.client, reader.left) for reader in readers if reader.is_connected]
    for reader in readers:
        reader.drained = 0
    assert await program.stop() == 0
    for reader, client, left in there:
        if reader.left == left and reader.client is client and not client.over:
            await reader.until(lambda me: me.drained > 0, "it is sent away")


async def check_log(path: Path) -> None:
    """The chain verifies from the first event to the last."""
    log = await SqliteLog.open(path, LogOptions(), read_only=True)
    try:
        walk, fault = await verify(log)
        assert fault is None, fault
        assert walk.position == log.head().position
    finally:
        await log.close()


async def check_service(url: str, told: Acknowledged, kind: CrashKind) -> None:
    """Everything acknowledged is there, everything has ended or soon does, every conversation can go on."""
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        found: dict[str, dict[str, Any]] = {}
        for session_id in told.sessions:
            answer = await history_of(client, session_id, kind)
            if session_id in told.deleting:
                assert answer.status_code == 404 or session_id not in told.deleted, "a deleted session is back"
                if answer.status_code == 404:
                    continue
            assert answer.status_code == 200, f"an acknowledged session is lost: {answer.text}"
            for message in answer.json()["messages"]:
                assert message["status"] in ENDED, f"a reply has not ended: {message['status']}"
                found[message["message_id"]] = message
        for message_id, (session_id, content) in told.messages.items():
            if session_id in told.deleting:
                continue
            assert message_id in found, "an acknowledged message is lost"
            assert not content or found[message_id]["content"] == content, "an acknowledged reply has changed"
        alive = sorted(told.sessions - told.deleting)
        for session_id in alive[:3]:
            answer = await client.post("/api/chat", json={"session_id": session_id, "message": "go on"})
            assert answer.status_code == 200, answer.text
        await check_transcripts(client, told, kind)


async def check_transcripts(client: httpx.AsyncClient, told: Acknowledged, kind: CrashKind) -> None:
    """Named conversations go on in their sessions, and nothing that was acknowledged is taken for a client's claim."""
    for name, (session_id, messages) in sorted(told.transcripts.items())[:3]:
        answer = await post_transcript(client, told, name, [*messages, {"role": "user", "content": "go on"}])
        assert (answer.status_code, answer.headers.get("X-Session-Id")) == (200, session_id), answer.text
        listed = (await history_of(client, session_id, kind)).json()["messages"]
        assert [one["content"] for one in listed[: len(messages)]] == [one["content"] for one in messages]
        assert not any(one.get("imported") for one in listed)


async def history_of(client: httpx.AsyncClient, session_id: str, kind: CrashKind) -> httpx.Response:
    """After the replies that are generated again have ended, if there are any."""
    async with asyncio.timeout(20):
        while True:
            answer = await client.get(f"/api/sessions/{session_id}/messages", params={"limit": 1000})
            if answer.status_code != 200 or not kind.retries:
                return answer
            if all(message["status"] in ENDED for message in answer.json()["messages"]):
                return answer
            await asyncio.sleep(0.02)


async def rounds(count: int, seed: int) -> None:
    """Each on files of its own, with a model that writes a token every 5 ms."""
    async with ModelServer(delay_s=0.005) as model:
        for number in range(count):
            with tempfile.TemporaryDirectory() as folder:
                started = time.monotonic()
                rng = random.Random(seed + number)
                kind = CrashKind(gently=rng.random() < 0.25, retries=rng.random() < 0.4)
                told = await crash_round(Path(folder), model.url, seed + number, kind)
                print(
                    f"round {number + 1}/{count}: {kind}, {len(told.sessions)} sessions, "
                    f"{len(told.messages)} messages, {time.monotonic() - started:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="repeats the same instants")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    asyncio.run(rounds(options.rounds, options.seed))
