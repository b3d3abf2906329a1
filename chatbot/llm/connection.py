"""The way to one model server: a pool of connections, and aiohttp's failures told in our own words."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec

from chatbot.llm.errors import LlmError, LlmFailed, LlmUnavailable
from chatbot.llm.exchange import CUT, Exchange
from chatbot.llm.options import LlmOptions
from chatbot.llm.refusal import from_status

# Shorter than uvicorn's 5 s: a request never rides on a connection that the server is just closing.
KEEPALIVE_S = 4.0
REFUSAL_MAX_BYTES = 4096
DOCUMENT_MAX_BYTES = 1_048_576  # of /health and /v1/models: a router may list thousands of models


class _Way:
    """How one request travelled."""

    reused = False


async def _mark_reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True


def _watch_reuse() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(_mark_reused)
    return config


class Connection:
    """Shared by all replies of a provider. The session is made at first use, because that needs a running loop."""

    def __init__(self, options: LlmOptions) -> None:
        self.options = options
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def post(self, path: str, body: Any) -> Exchange:
        """Asks for a reply; gives the answer once its head has come. Raises LlmError.

        Redirects are refused, as they would turn the POST into a GET.
        """
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        data = msgspec.json.encode(body)
        response = await self._request("POST", path, data=data, headers=headers)
        if response.status == 200:
            return Exchange(response, self.options)
        try:
            refusal = await self._refusal(response)
        finally:
            response.close()
        raise refusal

    async def get(self, path: str) -> Any:
        """The JSON at `path`, within health_timeout_s; raises LlmError, LlmUnavailable also when it takes longer."""
        try:
            async with asyncio.timeout(self.options.health_timeout_s):
                response = await self._request("GET", path)
                try:
                    return await self._read_json(response)
                finally:
                    response.close()
        except TimeoutError as error:
            raise LlmUnavailable(f"No answer in {self.options.health_timeout_s:g} s") from error

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _request(self, method: str, path: str, **arguments: Any) -> aiohttp.ClientResponse:
        url = self.options.server_url.rstrip("/").removesuffix("/v1") + path
        session = self._open_session()
        while True:  # as often as there are old connections in the pool, then once with a new one
            way = _Way()
            try:
                return await session.request(method, url, allow_redirects=False, trace_request_ctx=way, **arguments)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ValueError) as error:
                # ValueError: an address or a key that aiohttp will not put into a request
                raise LlmUnavailable from error
            except (aiohttp.ClientError, OSError) as error:
                # llama.cpp closes a connection after each stream without saying so before: an old connection that
                # ends with no answer has most likely never carried the request. A new one is not given the benefit.
                if not way.reused:
                    raise LlmFailed(CUT) from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise LlmUnavailable("The model server's connections are closed")
        if self._session is None:
            key = self.options.api_key
            self._session = aiohttp.ClientSession(
                # The gate bounds how many replies run; a second bound here would only hide a wait.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, connect=self.options.connect_timeout_s),
                trace_configs=[_watch_reuse()],
                cookie_jar=aiohttp.DummyCookieJar(),
                # identity: a compressed stream is a buffered one.
                headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            )
        return self._session

    async def _refusal(self, response: aiohttp.ClientResponse) -> LlmError:
        try:
            body = await response.content.read(REFUSAL_MAX_BYTES)
        except (aiohttp.ClientError, OSError):
            body = b""
        return from_status(response.status, body, response.headers.get("Retry-After"), self.options.api_key)

    async def _read_json(self, response: aiohttp.ClientResponse) -> Any:
        if response.status != 200:
            raise await self._refusal(response)
        body = bytearray()
        try:
            while data := await response.content.readany():
                body += data
                if len(body) > DOCUMENT_MAX_BYTES:
                    raise LlmFailed(f"The model server's answer exceeds {DOCUMENT_MAX_BYTES} bytes")
            return msgspec.json.decode(body)
        except (aiohttp.ClientError, OSError) as error:
            raise LlmFailed(CUT) from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise LlmFailed("The model server's answer is no JSON") from error
