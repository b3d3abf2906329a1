"""The provider for `auto`: finds out at first use, and again until it knows, which protocol the server speaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import structlog

from chatbot.llm.connection import Connection
from chatbot.llm.detect import detect
from chatbot.llm.errors import LlmError, LlmUnavailable
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import ChatMessage, Finish, Health, Provider
from events.catalogue import Parameters

_log = structlog.get_logger(__name__)


class LazyProvider:
    """Starts without a server; the server may come up, or be given its model, at any later time."""

    def __init__(self, options: LlmOptions, kinds: Mapping[str, Callable[[LlmOptions], Provider]]) -> None:
        """`kinds`: what makes the provider for each answer of detect()."""
        self.name = "auto"
        self.model = options.model
        self._options = options
        self._kinds = kinds
        self._connection = Connection(options)
        self._asking = asyncio.Lock()
        self._inner: Provider | None = None

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, *, whole: bool = False
    ) -> AsyncGenerator[str | Finish, None]:
        provider = await self._find()
        async with aclosing(provider.stream(messages, parameters, whole=whole)) as pieces:
            async for piece in pieces:
                self.model = provider.model
                yield piece

    async def health(self) -> Health:
        try:
            provider = await self._find()
        except LlmError as error:
            return Health(available=False, detail=str(error))
        health = await provider.health()
        self.model = provider.model
        return health

    async def close(self) -> None:
        await self._connection.close()
        if self._inner is not None:
            await self._inner.close()

    async def _find(self) -> Provider:
        """Raises LlmUnavailable. Those who ask at the same time share one question."""
        if self._inner is None:
            async with self._asking:
                if self._inner is None:
                    kind = await detect(self._connection)
                    if kind is None:
                        raise LlmUnavailable
                    self._inner = self._kinds[kind](self._options)
                    self.name, self.model = self._inner.name, self._inner.model
                    _log.info("llm.protocol_found", protocol=kind)
        return self._inner
