"""The provider for `auto`: detects the server's protocol at first use, and tries again until it is known."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Literal

import structlog

from chatbot.llm.http.error_mapping import KEY_REFUSED_STATUSES
from chatbot.llm.http.http_client import ROUTE_MISSING_STATUSES, HttpClient, NotJson
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.model_names import LIST_MAX_BYTES, read_names
from chatbot.llm.provider import (
    Finish,
    Health,
    LlmError,
    LlmFailed,
    LlmUnavailable,
    ModelMessage,
    Provider,
    ReplySink,
    Route,
    health_after,
)
from events.catalogue import Parameters

ServerProtocol = Literal["midm", "openai"]


async def detect_protocol(client: HttpClient) -> ServerProtocol:
    """midm if /health has the field `model_loaded`; openai if /v1/models is a list of models, or requires a key, or (if
    a model is configured) is missing or no JSON.

    Raises the LlmError that says why the protocol is unknown. /health is requested first because only midm has
    `model_loaded` there, while proxies offer /v1/models for all kinds of servers.
    """
    with contextlib.suppress(LlmError):
        health = await client.get("/health")
        if isinstance(health, dict) and "model_loaded" in health:
            return "midm"
    try:
        names = read_names(await client.get_api("/models", LIST_MAX_BYTES))
    except LlmFailed as error:
        has_no_list = error.status in ROUTE_MISSING_STATUSES or isinstance(error, NotJson)
        if error.status in KEY_REFUSED_STATUSES or (has_no_list and client.options.model):
            return "openai"
        raise
    if names is None and not client.options.model:
        raise LlmUnavailable("The server's answers are neither midm's nor OpenAI's")
    return "openai"


_log = structlog.get_logger(__name__)


class AutodetectProvider:
    """Stands in for the provider until the server's protocol is known, and says so by `on_detected`. The server may be
    started, or load its model, at any later time.
    """

    name = "auto"
    lists_models = False
    takes: frozenset[str] | None = None

    def __init__(self, options: LlmOptions, provider_types: Mapping[str, Callable[[LlmOptions], Provider]]) -> None:
        """`provider_types`: creates the provider for each result of detect_protocol()."""
        self.model = options.model
        self.models = frozenset((options.model,) if options.model else ())
        self.on_detected: Callable[[Provider], None] = lambda _: None
        self._options = options
        self._provider_types = provider_types
        self._client = HttpClient(options)
        self._detection_lock = asyncio.Lock()
        self._detected: Provider | None = None

    def context_tokens(self, model: str) -> int | None:
        return None

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        provider = await self._detect_once()
        return await provider.stream(messages, parameters, sink, stream=stream)

    async def health(self) -> Health:
        try:
            provider = await self._detect_once()
        except LlmError as error:
            return health_after(error)
        return await provider.health()

    async def close(self) -> None:
        """Not of the provider that was detected."""
        await self._client.close()

    async def _detect_once(self) -> Provider:
        """Raises LlmUnavailable. Concurrent callers share one detection."""
        if self._detected is None:
            async with self._detection_lock:
                if self._detected is None:
                    try:
                        detected_protocol = await detect_protocol(self._client)
                    except LlmUnavailable:
                        raise
                    except LlmError as error:
                        unknown = LlmUnavailable()
                        unknown.requested_url = error.requested_url
                        raise unknown from error
                    self._detected = self._provider_types[detected_protocol](self._options)
                    self.on_detected(self._detected)
                    await self._client.close()
                    _log.info("llm.protocol_found", protocol=detected_protocol)
        return self._detected
