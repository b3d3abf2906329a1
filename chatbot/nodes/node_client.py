"""The HTTP client for other nodes, with mutual authentication by a shared secret (`node_authentication.py`)."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from enum import Enum
from typing import Protocol

import aiohttp
import msgspec
import structlog
from msgspec import Struct
from yarl import URL

from chatbot.nodes.node_authentication import NONCE_BYTES, Challenge, Request, authorization, is_genuine
from chatbot.nodes.node_id import NodeAddress
from chatbot.sessions.domain.commands import Caller, CancelReply, IdempotencyKey
from chatbot.sessions.replies.growing_parts import PartKind

LINE_MAX_BYTES = 1 << 20  # of a line with text of a reply: more than the longest that a node sends
ANSWER_MAX_BYTES = 4_096  # of /alive and /challenge: a name, a nonce and a proof
METRICS_MAX_BYTES = 1 << 24  # a few thousand samples of some hundred bytes, with a margin
WARNED_MAX = 1_024  # nodes remembered as warned about, so that each is logged once
CANCEL_TIMEOUTS = 5  # a cancel waits for a commit and for the model server: its timeout is so many probe timeouts


class NodeState(Enum):
    """The result of a probe."""

    ALIVE = "alive"
    GONE = "gone"  # another incarnation answers at its address
    REFUSED = "refused"  # connection refused: nothing listens there, unless the network is wrong for a moment
    SILENT = "silent"  # frozen, disconnected, or slow


class NodeUnreachable(Exception):
    """No answer from the other node, or the connection broke."""


class ReplyNotFound(NodeUnreachable):
    """The other node does not write this reply."""


class NodeNotAuthenticated(ReplyNotFound):
    """The other node did not prove that it knows the secret: it has another one, or is of version 0.4."""


class NodeObserver(Protocol):
    """Told what happens between nodes: metrics."""

    def mirrors(self, count: int) -> None:
        """The number of mirrored replies is now `count`."""

    def peer_failed(self, question: str) -> None:
        """Another node did not answer a `probe`, `challenge` or `cancel`, or the stream of a `text` broke."""


class Alive(Struct, frozen=True):
    """The answer of GET /alive."""

    node: str


class PartHeader(Struct, frozen=True):
    """A line of a running reply's text: the lines after it are of this part."""

    part: int = 0
    kind: PartKind = "text"
    call_id: str = ""
    name: str = ""


_piece_decoder = msgspec.json.Decoder(str | PartHeader)


class RemoteCancelBody(Struct, frozen=True, rename={"idempotency_key": "once"}):
    """The body of a cancel: for which caller, and with which idempotency key."""

    cause: str
    owner: str | None = None
    request_id: str | None = None
    idempotency_key: IdempotencyKey | None = None


class NodeClient:
    """One client for all other nodes. `timeout_s` bounds short requests, `silence_timeout_s` the pauses of a stream."""

    def __init__(
        self, secret: str, timeout_s: float, silence_timeout_s: float, connections_max: int, observe: NodeObserver
    ) -> None:
        self._observe = observe
        self._secret = secret
        self._timeout_s = timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._connections_max = connections_max
        self._client: aiohttp.ClientSession | None = None
        self._warned: set[NodeAddress] = set()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def probe(self, address: NodeAddress) -> NodeState:
        """Whether this incarnation still runs. Not authenticated: that a process is alive is no secret."""
        try:
            answer = await self._get(URL(f"{address.url}/alive"))
            known = msgspec.json.decode(answer, type=Alive)
        except aiohttp.ClientConnectorError as error:
            self._observe.peer_failed("probe")
            return NodeState.REFUSED if isinstance(error.os_error, ConnectionRefusedError) else NodeState.SILENT
        except (NodeUnreachable, aiohttp.ClientError, TimeoutError, msgspec.DecodeError, OSError):
            self._observe.peer_failed("probe")
            return NodeState.SILENT
        return NodeState.ALIVE if known.node.endswith(f"#{address.incarnation}") else NodeState.GONE

    async def cancel(self, address: NodeAddress, where: tuple[str, str], command: CancelReply, caller: Caller) -> bool:
        """Ask the node that writes the reply `where` (session id, reply id) to cancel it. Whether it confirmed."""
        body = msgspec.json.encode(
            RemoteCancelBody(command.cause, caller.owner, caller.request_id, command.idempotency_key)
        )
        url = URL(f"{address.url}/replies/{where[0]}/{where[1]}/cancel")
        try:
            async with asyncio.timeout(self._timeout_s * CANCEL_TIMEOUTS):
                headers = await self._proof(address, Request("POST", url.raw_path_qs, body))
                async with self._session().post(url, data=body, headers=headers, allow_redirects=False) as answer:
                    return answer.status == 204
        except NodeNotAuthenticated:  # counted in `_not_authenticated`
            return False
        except (NodeUnreachable, aiohttp.ClientError, TimeoutError, OSError):
            self._observe.peer_failed("cancel")
            return False

    async def fetch_metrics(self, address: NodeAddress) -> bytes:
        """The node's metrics, encoded. Raises NodeUnreachable."""
        url = URL(f"{address.url}/metrics")
        try:
            async with asyncio.timeout(self._timeout_s):
                proof = await self._proof(address, Request("GET", url.raw_path_qs))
                return await self._get(url, proof, METRICS_MAX_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachable(str(error)) from error

    async def text(
        self, address: NodeAddress, where: tuple[str, str], after: int
    ) -> AsyncGenerator[str | PartHeader, None]:
        """Stream the text of the reply `where` (session id, reply id) from code point `after` on, until its end.

        Of a reply with other parts than text, the header of each part precedes its text. An empty piece is a
        keep-alive. Raises NodeUnreachable.
        """
        url = URL(f"{address.url}/replies/{where[0]}/{where[1]}?after={after}")
        try:
            async with asyncio.timeout(self._timeout_s):
                headers = await self._proof(address, Request("GET", url.raw_path_qs))
            timeout = self._stream_timeout()
            async with self._session().get(url, timeout=timeout, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ReplyNotFound(f"{address.url} answers {answer.status}")
                async for line in _lines(answer.content):
                    yield _decode_piece(line)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            self._observe.peer_failed("text")
            raise NodeUnreachable(f"{address.url}: {error!r}") from error

    async def _proof(self, address: NodeAddress, request: Request) -> dict[str, str]:
        """Headers that authenticate `request` at `address`, once. Raises NodeNotAuthenticated, and as `_get`."""
        own = secrets.token_hex(NONCE_BYTES)
        url = URL(f"{address.url}/challenge").with_query(nonce=own)
        try:
            challenge = msgspec.json.decode(await self._get(url), type=Challenge)
        except (aiohttp.ClientResponseError, msgspec.DecodeError) as error:
            raise self._not_authenticated(address, f"it does not answer a challenge: {error}") from error
        if not is_genuine(challenge, self._secret, own):
            raise self._not_authenticated(address, "it has another nodes.secret")
        if not challenge.node.endswith(f"#{address.incarnation}"):
            raise ReplyNotFound(f"another process answers at {address.url}")
        return {"Authorization": authorization(self._secret, challenge.nonce, request)}

    def _not_authenticated(self, address: NodeAddress, reason: str) -> NodeNotAuthenticated:
        """Counts each case, and logs one per node: its replies are then read from their checkpoints in the log."""
        self._observe.peer_failed("challenge")
        if address not in self._warned:
            if len(self._warned) >= WARNED_MAX:
                self._warned.clear()
            self._warned.add(address)
            structlog.get_logger("nodes").warning("peer.not_authenticated", peer=address.url, reason=reason)
        return NodeNotAuthenticated(f"{address.url}: {reason}")

    async def _get(
        self, url: URL, headers: Mapping[str, str] | None = None, max_bytes: int = ANSWER_MAX_BYTES
    ) -> bytes:
        """Raises NodeUnreachable, aiohttp.ClientError, OSError, TimeoutError."""
        async with asyncio.timeout(self._timeout_s):
            async with self._session().get(url, headers=headers, allow_redirects=False) as answer:
                answer.raise_for_status()
                body = bytearray()
                async for data in answer.content.iter_any():
                    body += data
                    if len(body) > max_bytes:
                        raise NodeUnreachable(f"{url.origin()}: the answer is longer than {max_bytes} bytes")
                return bytes(body)

    def _stream_timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=self._silence_timeout_s)

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            connector = aiohttp.TCPConnector(limit=self._connections_max)
            self._client = aiohttp.ClientSession(connector=connector)
        return self._client


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for data in content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_MAX_BYTES:
            raise NodeUnreachable("a line has no end")
        for line in lines:
            yield line


def _decode_piece(line: bytes) -> str | PartHeader:
    """The text in a line, or the part that begins; empty for a comment."""
    return "" if not line or line.startswith(b":") else _piece_decoder.decode(line)
