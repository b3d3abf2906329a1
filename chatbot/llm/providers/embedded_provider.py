"""The provider that needs no server: it keeps a child process with a small model and speaks openai to it."""

import asyncio

import msgspec
import structlog

from chatbot.llm.http.server_address import NO_PROXY
from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider import (
    TAKES_ALL,
    Finish,
    Health,
    LlmError,
    LlmUnavailable,
    ModelMessage,
    ModelUnusable,
    ReplySink,
)
from chatbot.llm.providers.embedded_process import EmbeddedMissing, EmbeddedProcess, find_model
from chatbot.llm.providers.openai_provider import OpenAiProvider
from events.catalogue import Parameters

__all__ = ["EmbeddedMissing", "EmbeddedProvider"]

RESTART_BACKOFF_S = 0.5  # before the first restart, doubled with each further one
RESTART_BACKOFF_MAX_S = 30.0  # from then on as often: whatever is wrong may be mended at any time
STABLE_S = 60.0  # a child that lived so long had a good start: its end counts as a first one

_log = structlog.get_logger(__name__)


class EmbeddedProvider:
    """Its child is started at first use, and again whenever it ends. Raises EmbeddedMissing when it is made.

    There is one model: the child takes no notice of `parameters.model`.
    """

    name = "embedded"
    takes: frozenset[str] | None = TAKES_ALL - {"media"}

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
        self._start_attempted = asyncio.Event()  # there is a server, or the last attempt to start one has failed
        self._failure: Exception | None = None  # of that attempt
        self._was_loaded = False  # at any time
        self._detail = "The model is being loaded"

    def start(self) -> None:
        """Starts the child if that has not been done: the first reply need not wait for it."""
        if self._supervisor is None:
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name="llm.embedded")

    def context_tokens(self, model: str) -> int | None:
        return None

    async def stream(
        self, messages: tuple[ModelMessage, ...], parameters: Parameters, sink: ReplySink, *, stream: bool = True
    ) -> Finish:
        """Waits while the child is being started."""
        server = await self._running_server()
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
        """Starts the child, waits for its end, starts it again."""
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
                await asyncio.sleep(_backoff_s(failures))
        finally:
            self._start_attempted.set()

    async def _run_child(self) -> None:
        """One life of the child. Raises LlmUnavailable or OSError when it does not come to life."""
        process = await EmbeddedProcess.start(self._model_file, self._options)
        address = process.address
        server = OpenAiProvider(
            msgspec.structs.replace(
                self._llm_options,
                server_url=address.url,
                api_key=address.api_key,
                proxy=NO_PROXY,
                model=self._model_file.name,
            )
        )
        try:
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


def _backoff_s(failures: int) -> float:
    """Before the next attempt, after so many failures in a row."""
    doubled = min(failures - 1, 16)  # no further: the float would overflow in the end
    return min(RESTART_BACKOFF_S * 2.0**doubled, RESTART_BACKOFF_MAX_S)
