"""The way to one model server: its connections, kept for the next request, and its failures in our own words."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from chatbot.llm.address import Address, parse_address, shown_origin
from chatbot.llm.beat import Beat
from chatbot.llm.connector import Connector
from chatbot.llm.errors import LlmError, LlmFailed, LlmUnavailable
from chatbot.llm.exchange import CUT, Exchange
from chatbot.llm.json_text import BOM
from chatbot.llm.options import LlmOptions
from chatbot.llm.refusal import NO_JSON, from_status
from chatbot.llm.retry_after import read_retry_after
from chatbot.llm.wire import Cut, Wire

# Shorter than uvicorn's 5 s: a request never rides on a connection that the server is just closing.
KEEPALIVE_S = 4.0
OK = range(200, 300)  # proxies and serverless platforms answer 201 and 203, too
REDIRECTS = (301, 302, 307, 308)  # 303 asks for a GET, and a reply is never one
REDIRECTS_MAX = 3
NO_SUCH_ROUTE = (404, 405, 501)
REFUSAL_MAX_BYTES = 4096
REFUSAL_WAIT_S = 5.0  # for the reason behind a status: some servers send the head and think
DOCUMENT_MAX_BYTES = 1_048_576  # of /health

Answer = TypeVar("Answer")


class NotJson(LlmFailed):
    """The model server's answer is no JSON"""


class Connection:
    """Shared by all replies of a provider.

    The gate bounds how many replies run, and with them how many connections there are; a second bound here would only
    hide a wait.
    """

    def __init__(self, options: LlmOptions) -> None:
        self.options = options
        self._way: tuple[Address, Connector] | None = None
        self._api_prefix: str | None = None  # the one that the server has answered
        self._idle: list[tuple[Wire, float]] = []  # with the time when it became idle, oldest first
        self._beat = Beat(options.beat_max_s)
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, path: str, body: Any) -> Exchange:
        """Asks midm for a reply; gives the answer once its head has come. Raises LlmError."""
        return await self._post(f"{self._find_way()[0].prefix}{path}", msgspec.json.encode(body))

    async def post_api(self, path: str, body: Any) -> Exchange:
        """As post(), of a path of OpenAI's API, below whatever prefix the server has it."""
        encoded = msgspec.json.encode(body)
        return await self._below_prefix(lambda prefix: self._post(f"{prefix}{path}", encoded))

    async def get(self, path: str) -> Any:
        """The JSON at midm's `path`, within health_timeout_s; raises LlmError, LlmUnavailable also when it takes
        longer, NotJson."""
        return await self._get(f"{self._find_way()[0].prefix}{path}", DOCUMENT_MAX_BYTES)

    async def get_api(self, path: str, max_bytes: int) -> Any:
        """As get(), of a path of OpenAI's API and with a bound of its own."""
        return await self._below_prefix(lambda prefix: self._get(f"{prefix}{path}", max_bytes))

    async def _below_prefix(self, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Tries what may come before a path of OpenAI's API until the server knows one, which is remembered."""
        if self._api_prefix is not None:
            return await ask(self._api_prefix)
        first: LlmFailed | None = None
        for prefix in self._find_way()[0].api_prefixes:
            try:
                answer = await ask(prefix)
            except LlmFailed as error:
                if error.status not in NO_SUCH_ROUTE and not isinstance(error, NotJson):
                    raise
                first = first or error
            else:
                self._api_prefix = prefix
                return answer
        raise first or LlmFailed(CUT)

    async def _post(self, path: str, body: bytes) -> Exchange:
        exchange = await self._request("POST", path, body)
        if exchange.status in OK:
            return exchange
        try:
            refusal = await self._refusal(exchange)
        finally:
            exchange.close()
        raise self._located(refusal, path)

    async def _get(self, path: str, max_bytes: int) -> Any:
        try:
            async with asyncio.timeout(self.options.health_timeout_s):
                exchange = await self._request("GET", path)
                try:
                    return await self._read_json(exchange, max_bytes)
                except LlmError as error:
                    raise self._located(error, path) from error.__cause__
                finally:
                    exchange.close()
        except TimeoutError as error:
            silent = LlmUnavailable(f"No answer in {self.options.health_timeout_s:g} s")
            raise self._located(silent, path) from error

    async def close(self) -> None:
        self._closed = True
        self._drop_idle(older_than_s=0.0)
        if self._sweep is not None:
            self._sweep.cancel()

    def _find_way(self) -> tuple[Address, Connector]:
        """Raises LlmUnavailable where no server can be asked at the configured address."""
        if self._closed:
            raise LlmUnavailable("The model server's connections are closed")
        if self._way is None:
            try:
                address = parse_address(self.options.server_url, self.options.api_key)
                self._way = address, Connector(address, self.options.proxy, self.options.ca_file)
            except ValueError as error:
                raise LlmUnavailable from error
        return self._way

    def _located(self, error: LlmError, path: str = "") -> LlmError:
        """`error`, which says from now on what was asked."""
        if self._way is not None and not error.asked:
            address, connector = self._way
            error.asked = connector.shown.replace(address.origin, f"{address.origin}{path.partition('?')[0]}", 1)
        return error

    async def _request(self, method: str, path: str, body: bytes = b"") -> Exchange:
        """The answer, its head read. Follows redirects, as long as they stay at this server. Raises LlmError."""
        address, _ = self._find_way()
        target = f"{path or '/'}{address.query}"
        for _ in range(REDIRECTS_MAX + 1):
            try:
                wire = await self._send(method, target, body)
            except LlmError as error:
                raise self._located(error, target) from error.__cause__
            exchange = Exchange(wire, self.options, self._give_back)
            location = exchange.header("Location")
            if exchange.status not in REDIRECTS or not location:
                return exchange
            exchange.close()
            target = self._redirected(target, location, exchange.status)
        raise self._located(LlmFailed(f"The model server redirects more than {REDIRECTS_MAX} times"), path)

    def _redirected(self, target: str, location: str, status: int) -> str:
        """Raises LlmFailed for a redirect to elsewhere, which would be given the key and the conversation."""
        address, _ = self._find_way()
        try:
            url = address.resolve(target, location)
            followed, where = address.target_of(url), shown_origin(url)
        except ValueError as error:
            bad = LlmFailed(f"The model server answered {status} and redirects to no URL", status=status)
            raise self._located(bad, target) from error
        if followed is None:
            message = f"The model server answered {status}: it redirects to {where}, which is not followed"
            raise self._located(LlmFailed(message, status=status), target)
        return followed

    async def _send(self, method: str, target: str, body: bytes) -> Wire:
        _, connector = self._find_way()
        request = connector.request(method, target, body)
        while True:  # as often as there are idle connections, then once with a new one
            idle = self._take_idle()
            wire = idle or await connector.connect(partial(Wire, self._beat), self.options.connect_timeout_s)
            try:
                await wire.ask(request)
            except Cut as error:
                # llama.cpp closes a connection after each stream without saying so before: an old connection that
                # ends with no answer has most likely never carried the request. A new one is not given the benefit.
                if idle is None or not wire.silent:
                    raise LlmFailed(CUT) from error
            except BaseException:
                wire.abort()
                raise
            else:
                return wire

    def _take_idle(self) -> Wire | None:
        """The connection that became idle last, unless that was too long ago."""
        if self._idle and asyncio.get_running_loop().time() - self._idle[-1][1] < KEEPALIVE_S:
            return self._idle.pop()[0]
        self._drop_idle(older_than_s=0.0)
        return None

    def _give_back(self, wire: Wire) -> None:
        """Keep a connection whose answer has ended."""
        if self._closed:
            wire.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((wire, loop.time()))
        if self._sweep is None:
            self._sweep = loop.call_later(KEEPALIVE_S, self._look)

    def _look(self) -> None:
        """Close those that have been idle for too long: one timer for all."""
        self._drop_idle(older_than_s=KEEPALIVE_S)
        self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_S / 2, self._look) if self._idle else None

    def _drop_idle(self, older_than_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        kept = [(wire, since_s) for wire, since_s in self._idle if now_s - since_s < older_than_s]
        for wire, _ in self._idle[: len(self._idle) - len(kept)]:
            wire.abort()
        self._idle = kept

    async def _refusal(self, exchange: Exchange) -> LlmError:
        try:
            async with asyncio.timeout(REFUSAL_WAIT_S):
                body = (await exchange.beginning(REFUSAL_MAX_BYTES))[:REFUSAL_MAX_BYTES]
        except (LlmFailed, TimeoutError):
            body = b""
        retry_after_s = read_retry_after(exchange.header, time.time())
        return from_status(exchange.status, body, retry_after_s, self.options.api_key)

    async def _read_json(self, exchange: Exchange, max_bytes: int) -> Any:
        if exchange.status not in OK:
            raise await self._refusal(exchange)
        body = await exchange.document(max_bytes)
        try:
            return msgspec.json.decode(body.removeprefix(BOM))
        except NO_JSON as error:
            raise NotJson from error
