"""The way to one model server: its connections, kept for the next request, and its failures in our own words."""

import asyncio
import ssl
from functools import partial
from typing import Any

import msgspec

from chatbot.llm.address import Address, parse_address
from chatbot.llm.beat import Beat
from chatbot.llm.errors import LlmError, LlmFailed, LlmUnavailable
from chatbot.llm.exchange import CUT, Exchange
from chatbot.llm.json_text import BOM
from chatbot.llm.options import LlmOptions
from chatbot.llm.refusal import NO_JSON, from_status
from chatbot.llm.wire import Cut, Wire

# Shorter than uvicorn's 5 s: a request never rides on a connection that the server is just closing.
KEEPALIVE_S = 4.0
OK = range(200, 300)  # proxies and serverless platforms answer 201 and 203, too
REFUSAL_MAX_BYTES = 4096
REFUSAL_WAIT_S = 5.0  # for the reason behind a status: some servers send the head and think
DOCUMENT_MAX_BYTES = 1_048_576  # of /health and /v1/models: a router may list thousands of models


class Connection:
    """Shared by all replies of a provider.

    The gate bounds how many replies run, and with them how many connections there are; a second bound here would only
    hide a wait.
    """

    def __init__(self, options: LlmOptions) -> None:
        self.options = options
        self._tls = ssl.create_default_context() if options.server_url.startswith("https:") else None
        self._address: Address | None = None
        self._idle: list[tuple[Wire, float]] = []  # with the time when it became idle, oldest first
        self._beat = Beat(options.beat_max_s)
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, path: str, body: Any) -> Exchange:
        """Asks for a reply; gives the answer once its head has come. Raises LlmError.

        Redirects are refused, as they would turn the POST into a GET.
        """
        wire = await self._request("POST", path, msgspec.json.encode(body))
        exchange = Exchange(wire, self.options, self._give_back)
        if wire.status in OK:
            return exchange
        try:
            refusal = await self._refusal(exchange)
        finally:
            exchange.close()
        raise refusal

    async def get(self, path: str) -> Any:
        """The JSON at `path`, within health_timeout_s; raises LlmError, LlmUnavailable also when it takes longer."""
        try:
            async with asyncio.timeout(self.options.health_timeout_s):
                exchange = Exchange(await self._request("GET", path), self.options, self._give_back)
                try:
                    return await self._read_json(exchange)
                finally:
                    exchange.close()
        except TimeoutError as error:
            raise LlmUnavailable(f"No answer in {self.options.health_timeout_s:g} s") from error

    async def close(self) -> None:
        self._closed = True
        self._drop_idle(older_than_s=0.0)
        if self._sweep is not None:
            self._sweep.cancel()

    async def _request(self, method: str, path: str, body: bytes = b"") -> Wire:
        if self._closed:
            raise LlmUnavailable("The model server's connections are closed")
        try:
            address = self._address = self._address or parse_address(self.options.server_url, self.options.api_key)
        except ValueError as error:
            raise LlmUnavailable from error
        request = address.request(method, path, body)
        while True:  # as often as there are idle connections, then once with a new one
            idle = self._take_idle()
            wire = idle or await self._open(address)
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

    async def _open(self, address: Address) -> Wire:
        loop, timeout_s = asyncio.get_running_loop(), self.options.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                _, wire = await loop.create_connection(
                    partial(Wire, self._beat), address.host, address.port, ssl=self._tls
                )
        except (OSError, ValueError) as error:  # ValueError: a host's name that cannot be one
            reason = f"not within {timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
            raise LlmUnavailable from ConnectionError(f"Cannot connect to host {address.host}:{address.port}: {reason}")
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
        return from_status(exchange.status, body, exchange.header("Retry-After"), self.options.api_key)

    async def _read_json(self, exchange: Exchange) -> Any:
        if exchange.status not in OK:
            raise await self._refusal(exchange)
        body = await exchange.document(DOCUMENT_MAX_BYTES)
        try:
            return msgspec.json.decode(body.removeprefix(BOM))
        except NO_JSON as error:
            raise LlmFailed("The model server's answer is no JSON") from error
