"""The provider for OpenAI's /v1/chat/completions: vLLM, llama.cpp, Ollama, LiteLLM and others."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from chatbot.llm.http.error_mapping import KEY_REFUSED_STATUSES
from chatbot.llm.http.http_client import ROUTE_MISSING_STATUSES, HttpClient, NotJson
from chatbot.llm.http.http_response import END_SILENCE_S, HttpResponse
from chatbot.llm.http.refused_parameters import REPLACEMENTS, without_parameters
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.model_names import LIST_MAX_BYTES, NAMES_MAX, is_llama_cpp, read_context_sizes, read_names
from chatbot.llm.provider import (
    FEATURE_WORDS,
    TAKES_ALL,
    Finish,
    Health,
    LlmError,
    LlmFailed,
    LlmUnsupported,
    ModelMessage,
    PartsMessage,
    ReplySink,
    Route,
    health_after,
    require_features,
)
from chatbot.llm.providers.llama_props import read_props
from chatbot.llm.providers.openai_completion import Completion
from chatbot.llm.providers.openai_messages import encode_messages
from chatbot.llm.resilient_provider import ReplyTooLong
from events.catalogue import Parameters

BAD_REQUEST = (400, 422)
FAULT = 500  # and beyond: the server's own
WITH_USAGE = {"stream_options": {"include_usage": True}}  # sent along until a server has refused it
# What extra_body may never set: it would change what is asked, or how the reply is read.
OWN_FIELDS = frozenset(
    {"messages", "model", "stream", "stream_options", "n", "tools", "tool_choice", "functions", "function_call", "user"}
)
REFUSING_MODELS_MAX = 256  # whose refusals are remembered: clients may name models

_log = structlog.get_logger(__name__)


def request_body(
    messages: tuple[ModelMessage, ...], parameters: Parameters, model: str, *, refer_to_media: bool = False
) -> dict[str, Any]:
    """Only parameters of the request are sent, so the server's defaults apply. do_sample False means temperature 0.

    Files may be in it as msgspec.Raw, which only msgspec encodes; `refer_to_media`: see encode_messages().
    """
    asked = {
        "model": model or None,
        "max_tokens": parameters.max_new_tokens,
        "temperature": 0 if parameters.do_sample is False else parameters.temperature,
        "top_p": parameters.top_p,
        "stop": parameters.stop or None,
        "seed": parameters.seed,
        "tools": parameters.tools or None,
        "tool_choice": parameters.tool_choice,
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "response_format": parameters.response_format,
        "reasoning_effort": parameters.reasoning_effort,
    }
    body: dict[str, Any] = {"messages": messages, "stream": True}
    body |= {name: value for name, value in asked.items() if value is not None}
    if any(isinstance(message, PartsMessage) for message in messages):
        body["messages"] = encode_messages(
            messages, send_reasoning=bool(parameters.send_reasoning), refer_to_media=refer_to_media
        )
    for name, value in (parameters.extra_body or {}).items():
        if name not in OWN_FIELDS:
            body.setdefault(name, value)
    return body


class RefusedParameters:
    """The parameters that each model refuses. Bounded: the oldest entry is dropped first."""

    def __init__(self) -> None:
        self._by_model: dict[str, frozenset[str]] = {}

    def of(self, model: str) -> frozenset[str]:
        """The parameters that the model is known to refuse."""
        return self._by_model.get(model, frozenset())

    def remember(self, model: str, refused: frozenset[str]) -> None:
        """Add what a successful request left out; a concurrent one may have added more."""
        self._by_model[model] = refused | self._by_model.pop(model, frozenset())
        if len(self._by_model) > REFUSING_MODELS_MAX:
            del self._by_model[next(iter(self._by_model))]


class OpenAiProvider:
    """`model` is the configured one, otherwise the first in the server's newest list."""

    name = "openai"

    def __init__(self, options: LlmOptions) -> None:
        self.model = options.model
        self.models = frozenset((options.model,) if options.model else ())
        self.lists_models = False
        self._configured = bool(options.model)
        self._secret = options.api_key
        self._client = HttpClient(options)
        self._refused = RefusedParameters()
        self._accepts_usage = False  # it has answered a request with stream_options
        self.takes: frozenset[str] | None = TAKES_ALL
        self._context_sizes: dict[str, int] = {}
        self._context_size: int | None = None  # of llama.cpp, which has one model whatever it is called

    def context_tokens(self, model: str) -> int | None:
        sizes, name = self._context_sizes, model or self.model
        return self._context_size or sizes.get(name) or sizes.get(f"{name}:latest")

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        """Chunks without any part are passed on as an empty text: the model is alive.

        A reply is read to [DONE] or the end of its body: some servers send more after a finish reason.
        """
        model = parameters.model or self.model or await self._list_models()
        if self.takes is not None and self.takes != TAKES_ALL and messages:
            require_features(self.takes, messages[-1], parameters)
        has_media = any(isinstance(message, PartsMessage) and message.media for message in messages)
        build = partial(request_body, messages, parameters, model)
        response, refused = await self._ask(
            await asyncio.to_thread(build) if has_media else build(), model, has_media=has_media
        )
        options = self._client.options
        reply = Completion(
            model, self._secret, sink, think_tags=options.think_tags, held_max_chars=options.reply_max_chars
        )

        def add_events(events: list[bytes]) -> bool:
            has_news = reply.add_events(events)
            if has_news and not response.may_coalesce:
                response.allow_coalescing()
            if reply.failure:
                raise reply.failure
            if reply.reason is not None and not reply.done and (has_news or not response.is_ending):
                response.end_after(END_SILENCE_S if reply.is_final else None)
            return reply.done

        try:
            document = await response.read(add_events)
            if document is not None:
                reply.add_document(document)
            elif reply.done:
                await response.end()
            else:
                reply.check_ended()
        except LlmError:
            if not reply.is_final:  # else the reply is whole: this costs no more than its usage
                with suppress(LlmError, ReplyTooLong):
                    reply.end()
                raise
        finally:
            response.close()
        reply.end()
        return replace(reply.finish(), refused_parameters=refused)

    async def health(self) -> Health:
        try:
            await self._list_models()
        except LlmError as error:
            return health_after(error)
        return Health(available=True)

    async def close(self) -> None:
        await self._client.close()

    async def _list_models(self) -> str:
        """The first model's name, which becomes `model` unless one is configured; '' if the server lists none.

        Raises LlmError, but not if the server has no /v1/models, or an unreadable one and a model is configured: it may
        still answer completions.
        """
        try:
            document = await self._client.get_api("/models", LIST_MAX_BYTES)
        except LlmFailed as error:
            if error.status in ROUTE_MISSING_STATUSES or (self._configured and _has_answered(error)):
                return self.model
            if isinstance(error, NotJson):
                raise self._unreadable(error) from error
            raise
        names = read_names(document)
        if names is None:
            if not self._configured:
                raise self._unreadable()
            return self.model
        models = frozenset((*names, self.model) if self._configured else names)
        if models != self.models:  # sessions compare it at each step: identical objects compare fastest
            self.models = models
        self.lists_models = 0 < len(names) < NAMES_MAX
        if not self._configured and names:
            self.model = names[0]
        self._context_sizes = read_context_sizes(document)
        if is_llama_cpp(document):
            await self._read_props()
        else:
            self._context_size, self.takes = None, TAKES_ALL
        return self.model

    async def _read_props(self) -> None:
        """llama.cpp leaves out silently what the model's template has no place for: so ask it. Never raises."""
        with suppress(LlmError):
            read = read_props(await self._client.get("/props"))
            self._context_size, self.takes = read.context_tokens, read.takes

    def _unreadable(self, error: LlmFailed | None = None) -> LlmFailed:
        unreadable = LlmFailed("The model server's list of models cannot be read; name a model in llm.model")
        unreadable.requested_url = error.requested_url if error is not None else ""
        return unreadable

    async def _ask(self, body: dict[str, Any], model: str, *, has_media: bool) -> tuple[HttpResponse, tuple[str, ...]]:
        """Send the request, repeatedly without parameters that the server refuses, one at a time; also return those.

        Raises LlmUnsupported for what is never left out. `stream_options` requests the usage. If a server refuses a
        first request without a clear reason, it is repeated without them: older servers do not know them.
        """
        known = refused = self._refused.of(model)
        body = body | WITH_USAGE
        for _ in REPLACEMENTS:
            sent = without_parameters(body, refused) if refused else body
            try:
                response = await self._post(sent, has_media=has_media)
            except LlmFailed as error:
                has_feature = error.feature in body or (has_media and error.feature == "media")
                if has_feature and error.parameter not in sent:
                    raise _unsupported(error) from error
                parameter = self._refused_parameter(error, sent)
                if parameter is None:
                    raise
                refused |= {parameter}
            else:
                break
        else:
            response = await self._post(without_parameters(body, refused), has_media=has_media)
        if refused != known:
            self._refused.remember(model, refused)
            _log.info("llm.parameters_refused", parameters=sorted(refused))
        self._accepts_usage = self._accepts_usage or "stream_options" not in refused
        return response, tuple(sorted(refused & body.keys()))

    def _refused_parameter(self, error: LlmFailed, sent: dict[str, Any]) -> str | None:
        """The parameter of `sent` to leave out; None if the refusal has another reason."""
        if error.status not in BAD_REQUEST:
            return None
        if error.parameter in sent:
            return error.parameter
        return "stream_options" if "stream_options" in sent and not self._accepts_usage else None

    async def _post(self, body: dict[str, Any], *, has_media: bool) -> HttpResponse:
        """A request with files is encoded in a thread: it may have tens of megabytes."""
        encoded = await asyncio.to_thread(msgspec.json.encode, body) if has_media else msgspec.json.encode(body)
        try:
            return await self._client.post_api("/chat/completions", encoded)
        except LlmFailed as error:
            if error.status == 404 and not self._configured and body.get("model") == self.model:
                self.model = ""  # the server may have other models by now: list them again next time
            raise


def _has_answered(error: LlmFailed) -> bool:
    """Whether completions may work although there is no list: a wrong key or a server error would affect them, too."""
    return isinstance(error, NotJson) or (
        error.status is not None and error.status < FAULT and error.status not in KEY_REFUSED_STATUSES
    )


def _unsupported(error: LlmFailed) -> LlmUnsupported:
    words = FEATURE_WORDS[error.feature or ""]
    unsupported = LlmUnsupported(f"The model server does not take {words}: {error}", status=error.status)
    unsupported.requested_url = error.requested_url
    return unsupported
