"""The provider that needs no server: runs a small model in a child process and uses its OpenAI API."""

import asyncio

import structlog
from msgspec.structs import replace

from chatbot.llm.http.server_address import NO_PROXY
from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider import (
    Finish,
    Health,
    LlmError,
    LlmUnavailable,
    ModelMessage,
    ModelUnusable,
    PartsMessage,
    ReplySink,
    Route,
    require_features,
)
from chatbot.llm.providers.embedded_process import EmbeddedMissing, EmbeddedProcess, find_model
from chatbot.llm.providers.openai_provider import OpenAiProvider
from chatbot.runtime.backoff import Backoff
from events.catalogue import Parameters

__all__ = ["EmbeddedMissing", "EmbeddedProvider"]

RESTART_BACKOFF = Backoff(first_s=0.5, max_s=30.0)  # never ends: the cause may be removed at any time
NO_FEATURES: frozenset[str] = frozenset()
STABLE_S = 60.0  # the end of a child that lived so long counts as the first failure

_log = structlog.get_logger(__name__)


class EmbeddedProvider:
    """Starts the child process at first use, and again whenever it ends. The constructor raises EmbeddedMissing.

    There is one model: `parameters.model` is ignored.
    """

    name = "embedded"

    def __init__(self, options: EmbeddedOptions, llm_options: LlmOptions) -> None:
        self._model_file = find_model(options)
        self.model = self._model_file.name
        self.models = frozenset((self.model,))
        self.lists_models = True
        self._options = options
        self._llm_options = llm_options
        self._supervisor: asyncio.Task[None] | None = None
        self._process: EmbeddedProcess | None = None
        self._server: OpenAiProvider | None = None
        self._start_attempted = asyncio.Event()  # a server runs, or the last attempt to start one has failed
        self._failure: Exception | None = None  # of that attempt
        self._was_loaded = False  # at any time
        self._detail = "The model is being loaded"

    @property
    def takes(self) -> frozenset[str] | None:
        """Known once the model is loaded: its template may have no place for tools."""
        takes = self._server.takes if self._server is not None else None
        return takes - {"media"} if takes is not None else None

    def start(self) -> None:
        """Start the child unless it was started, so that the first reply need not wait for it."""
        if self._supervisor is None:
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="llm.embedded")

    def context_tokens(self, model: str) -> int | None:
        return self._options.context_tokens

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        """Waits while the child is being started. Of earlier messages with images the model gets the text."""
        server = await self._running_server()
        if messages:
            require_features(self.takes or NO_FEATURES, messages[-1], parameters)
        messages = tuple(
            replace(one, media={}) if isinstance(one, PartsMessage) and one.media else one for one in messages
        )
        return await server.stream(messages, parameters, sink)

    async def health(self) -> Health:
        self.start()
        if self._server is not None:
            return await self._server.health()
        is_first = not self._was_loaded
        return Health(
            available=False,
            detail=self._detail,
            starting=is_first and self._failure is None,
            loading=self._failure is None,
            unusable=is_first and isinstance(self._failure, ModelUnusable),
        )

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    @property
    def pid(self) -> int | None:
        """The child's process id while its model is loaded."""
        return self._process.pid if self._process else None

    async def _running_server(self) -> OpenAiProvider:
        """Raises LlmUnavailable."""
        self.start()
        try:
            async with asyncio.timeout(self._options.startup_timeout_s):
                await self._start_attempted.wait()
        except TimeoutError as error:
            raise LlmUnavailable(self._detail) from error
        if self._server is None:
            raise LlmUnavailable(self._detail, retryable=False)
        return self._server

    async def _supervise(self) -> None:
        """Start the child, wait for its end, start it again after a backoff."""
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while True:
                started_s = loop.time()
                try:
                    await self._run_child()
                    self._failure = None
                except (LlmError, OSError) as error:
                    self._failure, self._detail = error, str(error)
                    self._start_attempted.set()
                failures = 1 if loop.time() - started_s > STABLE_S else failures + 1
                _log.warning("llm.child_ended", detail=self._detail, failures=failures)
                await asyncio.sleep(RESTART_BACKOFF.delay_s(failures))
        finally:
            self._start_attempted.set()

    async def _run_child(self) -> None:
        """Run the child from its start to its end. Raises LlmUnavailable or OSError if it does not start."""
        process = await EmbeddedProcess.start(self._model_file, self._options)
        address = process.address
        server = OpenAiProvider(
            replace(
                self._llm_options,
                server_url=address.url,
                api_key=address.api_key,
                proxy=NO_PROXY,
                model=self._model_file.name,
            )
        )
        try:
            await server.health()  # reads what the model takes
            self._process, self._server, self._failure, self._was_loaded = process, server, None, True
            self._start_attempted.set()
            _log.info("llm.child_started", model=self.model)
            status = await process.wait_ended()
            self._detail = f"The embedded model's process ended with status {status}; it is being restarted"
        finally:
            self._start_attempted.clear()
            self._process = self._server = None
            await server.close()
            await process.stop()
