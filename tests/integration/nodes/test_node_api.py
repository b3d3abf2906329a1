"""The listener for other nodes: what it tells, and to whom."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from chatbot.api.routes import node_routes as telling
from chatbot.nodes import node_client as peers_module
from chatbot.nodes.node_authentication import SCHEME
from chatbot.nodes.node_client import NodeClient, NodeUnreachable, PartHeader, ReplyNotFound
from chatbot.nodes.node_id import NodeAddress, parse_node_id
from chatbot.observability.metrics import Metrics
from chatbot.sessions.domain.commands import SERVICE, Caller, CancelReply
from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Parameters
from events.schema.parts import Text, ToolCall
from tests.support.http.feed_reader import following, text_of
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import SECRET, known, nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running

pytestmark = pytest.mark.real_part
PIECES = ("안", "녕", " ok")
TEXT = "".join(PIECES)


@pytest.fixture
async def node(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[Running]:
    async with nodes(tmp_path, await postgres.schema(), model.url, {}, CHATBOT_NODES_FAILURE_TIMEOUT_S="0.3") as (
        running,
    ):
        yield running


@pytest.fixture
async def peer(node: Running) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the node as another one would, but for the secret."""
    address = parse_node_id(node.services.cluster.name)
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
    assert (await peer.get("/alive")).json() == {"node": node.services.cluster.name}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {SECRET}"},  # as version 0.4 did
        {"Authorization": f"{SCHEME} {SECRET} {SECRET}"},
        {"X-API-Key": SECRET},
    ],
)
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


async def test_the_proof_is_enough_where_users_need_keys_and_any_host_may_be_named(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    secret = "k" * 40
    settings = {"CHATBOT_API_KEYS": f"mina:{secret}", "CHATBOT_SERVER_HOSTS": "chat.example.org"}
    async with nodes(tmp_path, await postgres.schema(), model.url, {}, **settings) as (running,):
        address = parse_node_id(running.services.cluster.name)
        assert address is not None
        async with httpx.AsyncClient(base_url=address.url, headers={"Host": "node-1.internal"}) as client:
            assert (await client.get("/metrics", headers=await known(client, "GET", "/metrics"))).status_code == 200
            assert (await client.get("/metrics", headers={"Authorization": f"Bearer {secret}"})).status_code == 401


async def test_a_reply_is_told_from_any_character_on_with_pings_until_its_end(
    node: Running, model: ModelServer, peer: httpx.AsyncClient
) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}"
    lines: list[str] = []
    headers = await known(peer, "GET", f"{url}?after=1")
    async with peer.stream("GET", url, params={"after": 1}, headers=headers) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if line.startswith(":"):
                model.release()
    assert lines[0] == '"녕 ok"'
    assert ": ping" in lines
    assert (await chatting)["content"] == TEXT
    gone = await peer.get(url, headers=await known(peer, "GET", url))
    assert gone.status_code == 404, "what has ended is in the log"


async def test_a_cancel_answers_once_the_end_is_recorded_under_the_askers_name(
    node: Running, model: ModelServer, peer: httpx.AsyncClient
) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}/cancel"
    body = json.dumps({"cause": "client", "owner": "mina", "request_id": "r-1"}).encode()
    assert (await peer.post(url, content=body, headers=await known(peer, "POST", url, body))).status_code == 204
    await model.wait_aborted()
    assert (await chatting)["status"] == "cancelled"
    events = (await node.client.get(f"/api/sessions/{session_id}/events")).json()["events"]
    assert (events[-1]["type"], events[-1]["metadata"]) == (
        "reply_cancelled",
        '{"actor":"mina","request_id":"r-1"}',
    )
    assert (await peer.post(url, content=body, headers=await known(peer, "POST", url, body))).status_code == 404


async def test_odd_questions_are_refused(node: Running, model: ModelServer, peer: httpx.AsyncClient) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}"
    for odd in (f"{url}?after=x", f"{url}?after={'9' * 5000}"):
        assert (await peer.get(odd, headers=await known(peer, "GET", odd))).status_code == 404
    cancel = f"{url}/cancel"
    headers = await known(peer, "POST", cancel, b"{")
    assert (await peer.post(cancel, content=b"{", headers=headers)).status_code == 400
    long = b"x" * 20_000
    assert (await peer.post(cancel, content=long, headers=await known(peer, "POST", cancel, long))).status_code == 413
    service = "/api/sessions"
    answer = await peer.get(service, headers=await known(peer, "GET", service))
    assert answer.status_code == 404, "it is not the service's own port"
    assert [(await peer.get("/challenge", params={"nonce": nonce})).status_code for nonce in ("", "x" * 65)] == [
        400,
        400,
    ]
    model.release()
    await chatting


async def test_a_proof_is_for_one_request_once(node: Running, model: ModelServer, peer: httpx.AsyncClient) -> None:
    session_id, reply_id, chatting = await held(node, model)
    url = f"/replies/{session_id}/{reply_id}/cancel"
    body = b'{"cause":"client"}'
    headers = await known(peer, "POST", url, body)
    assert (await peer.post(url, content=b'{"cause":"other"}', headers=headers)).status_code == 401
    assert (await peer.post(f"{url}?x", content=body, headers=headers)).status_code == 401
    assert (await peer.get(f"/replies/{session_id}/{reply_id}", headers=headers)).status_code == 401
    others = await known(peer, "POST", url, body, secret="another-secret-of-somebody")
    assert (await peer.post(url, content=body, headers=others)).status_code == 401
    assert not chatting.done()
    assert (await peer.post(url, content=body, headers=headers)).status_code == 204
    again = await peer.post(url, content=body, headers=headers)
    assert (again.status_code, again.text) == (401, "the nonce was used before\n")
    await chatting


class Stranger:
    """A program at a node's address that does not know the secret, and answers as it is told."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self._answer = answer

    async def __aenter__(self) -> "Stranger":
        self._server = await asyncio.start_server(self._listen, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def address(self) -> NodeAddress:
        return NodeAddress(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}", "00000000")

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._answer)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + self._answer)
        writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'{"node":"http://127.0.0.1:1#00000000","nonce":"","proof":""}',
        b'{"node":"http://127.0.0.1:1#00000000","nonce":"\xc3\xa9","proof":"\xc3\xa9"}',
        b"x" * 100_000,
    ],
)
async def test_a_stranger_at_a_nodes_address_is_told_neither_the_secret_nor_what_is_wanted(answer: bytes) -> None:
    """Another program may have taken the port of a node that has ended, or an event may name any address."""
    peers = NodeClient(SECRET, 10.0, 10.0, 4, Metrics("0"))
    with capture_logs() as lines:
        await asked(peers, answer)
    warnings = [line for line in lines if line["event"] == "peer.not_authenticated"]
    assert len(warnings) == (0 if len(answer) > 4096 else 1), "once for each node"
    assert SECRET not in str(lines)


async def asked(peers: NodeClient, answer: bytes) -> None:
    """All that may be asked of a node, asked of a stranger."""
    async with Stranger(answer) as stranger:
        where, address = ("the-session", "the-reply"), stranger.address
        await peers.probe(address)
        assert not await peers.cancel(address, where, CancelReply("client", None, "the-reply"), Caller("mina", "r"))
        for asking in (peers.fetch_metrics(address), anext(peers.text(address, where, 0))):
            with pytest.raises(NodeUnreachable):
                await asking
        await peers.close()
    requests = [line for line in stranger.heard.split(b"\r\n") if line.startswith((b"GET", b"POST"))]
    assert [line.split(b"?")[0].split()[:2] for line in requests] == [
        [b"GET", b"/alive"],
        *[[b"GET", b"/challenge"]] * 3,
    ]
    for private in (SECRET, "the-session", "the-reply", "mina", "Authorization"):
        assert private.encode() not in stranger.heard


async def test_a_node_with_the_secret_but_of_another_life_is_told_nothing(node: Running) -> None:
    address = parse_node_id(node.services.cluster.name)
    assert address is not None
    peers = NodeClient(SECRET, 10.0, 10.0, 4, Metrics("0"))
    with pytest.raises(ReplyNotFound, match="another process answers"):
        await anext(peers.text(NodeAddress(address.url, "00000000"), ("s", "r"), 0))
    await peers.close()


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
    address = parse_node_id(node.services.cluster.name)
    assert address is not None
    peers = NodeClient(SECRET, 10.0, 10.0, 4, Metrics("0"))
    text = ""
    async with aclosing(peers.text(address, (session_id, reply_id), 0)) as pieces:
        async for piece in pieces:
            assert isinstance(piece, str)
            text += piece
            if len(text) == len(long):
                break
    await peers.close()
    assert text == long
    model.release()
    await chatting


async def test_the_parts_of_a_reply_are_followed_from_any_offset(node: Running, model: ModelServer) -> None:
    session_id, reply_id, chatting = await held(node, model)
    reply = node.services.supervisor.replies(session_id)[reply_id]
    address = parse_node_id(node.services.cluster.name)
    assert address is not None
    reply.grow_part("tool_call", "", "call_1", "weather")  # as a model would
    reply.grow_part("tool_call", '{"city":', "call_1", "weather")
    reply.grow_part("tool_call", "", "call_2", "time")
    parts = (Text(TEXT), ToolCall("call_1", "weather", '{"city":'), ToolCall("call_2", "time", ""))
    node_client = NodeClient(SECRET, 10.0, 10.0, 4, Metrics("0"))
    try:
        for known in range(reply.length + 1):
            copy, header = Reply("m", reply_id, Parameters(), SERVICE), PartHeader()
            for segment in reply.segments(0):
                if segment.offset < known:
                    copy.extend(replace(segment, text=segment.text[: known - segment.offset]))
            offset = copy.length
            async with aclosing(node_client.text(address, (session_id, reply_id), offset)) as lines:
                async for line in lines:
                    header, piece = (line, "") if isinstance(line, PartHeader) else (header, line)
                    copy.extend(Segment(offset, piece, header.part, header.kind, header.call_id, header.name))
                    offset += len(piece)
                    if copy.last_part == 2:
                        break
            assert copy.freeze().parts == parts, f"from {known}"
    finally:
        await node_client.close()
        model.release()
        await chatting
