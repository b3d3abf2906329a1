"""The listener for other nodes: what it tells, and to whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from chatbot.api import peers as telling
from chatbot.metrics import Metrics
from chatbot.nodes import peers as peers_module
from chatbot.nodes.name import Address, address_of
from chatbot.nodes.peers import Peers, Verdict
from tests.support.cluster import SECRET, nodes
from tests.support.feed_reader import following, text_of
from tests.support.model_server import ModelServer
from tests.support.postgres import PostgresServer
from tests.support.service import Running

pytestmark = pytest.mark.real_part
PIECES = ("안", "녕", " ok")
TEXT = "".join(PIECES)
KNOWN = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
async def node(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[Running]:
    async with nodes(tmp_path, await postgres.schema(), model.url, {}, CHATBOT_NODES_SUSPECT_S="0.3") as (running,):
        yield running


@pytest.fixture
async def peer(node: Running) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the node as another one would, but for the secret."""
    address = address_of(node.services.nodes.name)
    assert address is not None
    async with httpx.AsyncClient(base_url=address.url) as client:
        yield client


async def held(node: Running, model: ModelServer) -> tuple[str, str, asyncio.Task[dict[str, object]]]:
    """A session, its reply that has all of its text, and who waits for the end."""
    model.script(pieces=PIECES, hold_after=len(PIECES))
    session_id = await node.session()
    chatting = asyncio.create_task(node.chat(session_id, "hi"))
    async with following(node.client, session_id, 0) as feed:
        seen = await feed.until("start")
        while text_of(seen) != TEXT:
            seen.append(await feed.next())
    (start,) = [frame for frame in seen if frame["type"] == "start"]
    return session_id, start["message_id"], chatting


async def test_everyone_may_ask_which_life_answers(node: Running, peer: httpx.AsyncClient) -> None:
    assert (await peer.get("/alive")).json() == {"node": node.services.nodes.name}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer another-secret-of-somebody"}, {"X-API-Key": SECRET}])
async def test_without_the_secret_nothing_else_is_told_or_done(
    node: Running, model: ModelServer, peer: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}"
    answers = [
        await peer.get(url, headers=headers),
        await peer.post(f"{url}/cancel", json={"cause": "client"}, headers=headers),
        await peer.get("/metrics", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [401] * 3
    assert TEXT not in "".join(answer.text for answer in answers)
    model.release()
    assert (await chatting)["status"] == "complete"


async def test_a_reply_is_told_from_any_character_on_with_pings_until_its_end(
    node: Running, model: ModelServer, peer: httpx.AsyncClient
) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}"
    lines: list[str] = []
    async with peer.stream("GET", url, params={"after": 1}, headers=KNOWN) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if line.startswith(":"):
                model.release()
    assert lines[0] == '"녕 ok"'
    assert ": ping" in lines
    assert (await chatting)["content"] == TEXT
    gone = await peer.get(url, headers=KNOWN)
    assert gone.status_code == 404, "what has ended is in the log"


async def test_a_cancel_answers_once_the_end_is_recorded_under_the_askers_name(
    node: Running, model: ModelServer, peer: httpx.AsyncClient
) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}/cancel"
    body = {"cause": "client", "owner": "mina", "request_id": "r-1"}
    assert (await peer.post(url, json=body, headers=KNOWN)).status_code == 204
    await model.wait_aborted()
    assert (await chatting)["status"] == "cancelled"
    events = (await node.client.get(f"/api/sessions/{session_id}/events")).json()["events"]
    assert (events[-1]["type"], events[-1]["metadata"]) == (
        "reply_cancelled",
        '{"actor":"mina","request_id":"r-1"}',
    )
    assert (await peer.post(url, json=body, headers=KNOWN)).status_code == 404


async def test_odd_questions_are_refused(node: Running, model: ModelServer, peer: httpx.AsyncClient) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}"
    assert (await peer.get(url, params={"after": "x"}, headers=KNOWN)).status_code == 404
    assert (await peer.get(url, params={"after": "9" * 5000}, headers=KNOWN)).status_code == 404
    assert (await peer.post(f"{url}/cancel", content=b"{", headers=KNOWN)).status_code == 400
    assert (await peer.post(f"{url}/cancel", content=b"x" * 20_000, headers=KNOWN)).status_code == 413
    assert (await peer.get("/api/sessions", headers=KNOWN)).status_code == 404, "it is not the service's own port"
    model.release()
    await chatting


async def test_a_probe_does_not_tell_the_secret() -> None:
    """Another program may have taken the port of a node that has ended."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    stranger = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    peers = Peers(SECRET, 10.0, 10.0, 4, Metrics("0"))
    assert await peers.probe(Address(f"http://127.0.0.1:{port}", "00000000")) is Verdict.SILENT
    await peers.close()
    stranger.close()
    assert heard[0].startswith(b"GET /alive")
    assert SECRET.encode() not in b"".join(heard)


async def test_a_reply_longer_than_a_line_may_be_is_followed_all_the_same(
    node: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "LINE_MAX_BYTES", 600)
    monkeypatch.setattr(telling, "LINE_MAX_CHARS", 50)
    long = "안녕" * 45_000
    model.script(pieces=(long,), hold_after=1)
    session_id = await node.session()
    chatting = asyncio.create_task(node.chat(session_id, "hi"))
    async with following(node.client, session_id, 0) as feed:
        seen = await feed.until("start")
        while text_of(seen) != long:
            seen.append(await feed.next())
    (reply_id,) = node.services.supervisor.replies(session_id)
    address = address_of(node.services.nodes.name)
    assert address is not None
    peers = Peers(SECRET, 10.0, 10.0, 4, Metrics("0"))
    text = ""
    async with aclosing(peers.text(address, (session_id, reply_id), 0)) as pieces:
        async for piece in pieces:
            text += piece
            if len(text) == len(long):
                break
    await peers.close()
    assert text == long
    model.release()
    await chatting
