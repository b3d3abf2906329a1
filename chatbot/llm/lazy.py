"""The provider for `auto`: finds out at first use, and again until it knows, which protocol the server speaks."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from chatbot.llm.connection import Connection
from chatbot.llm.detect import detect
from chatbot.llm.errors import LlmError, LlmUnavailable, reason_of
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import ChatMessage, Finish, Health, Hear, Provider
from events.catalogue import Parameters

_log = structlog.get_logger(__name__)


class LazyProvider:
    """Starts without a server; the server may come up, or be given its model, at any later time."""

    def __init__(self, options: LlmOptions, kinds: Mapping[str, Callable[[LlmOptions], Provider]]) -> None:
        """`kinds`: what makes the provider for each answer of detect()."""
        self._options = options
        self._kinds = kinds
        self._connection = Connection(options)
        self._asking = asyncio.Lock()
        self._inner: Provider | None = None

    @property
    def name(self) -> str:
        return self._inner.name if self._inner else "auto"

    @property
    def model(self) -> str:
        return self._inner.model if self._inner else self._options.model

    @property
    def models(self) -> frozenset[str]:
        configured = self._options.model
        return self._inner.models if self._inner else frozenset((configured,) if configured else ())

    @property
    def lists_models(self) -> bool:
        return self._inner is not None and self._inner.lists_models

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool = False
    ) -> Finish:
        provider = await self._find()
        return await provider.stream(messages, parameters, hear, whole=whole)

    async def health(self) -> Health:
        try:
            provider = await self._find()
        except LlmError as error:
            return Health(available=False, detail=reason_of(error))
        return await provider.health()

    async def close(self) -> None:
        await self._connection.close()
        if self._inner is not None:
            await self._inner.close()

    async def _find(self) -> Provider:
        """Raises LlmUnavailable. Those who ask at the same time share one question."""
        if self._inner is None:
            async with self._asking:
                if self._inner is None:
                    try:
                        kind = await detect(self._connection)
                    except LlmUnavailable:
                        raise
                    except LlmError as error:
                        unknown = LlmUnavailable()
                        unknown.asked = error.asked
                        raise unknown from error
                    self._inner = self._kinds[kind](self._options)
                    _log.info("llm.protocol_found", protocol=kind)
        return self._inner
