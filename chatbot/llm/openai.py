"""The /v1/chat/completions protocol: vLLM, llama.cpp, Ollama, LiteLLM and others."""

from typing import Any

import msgspec
from msgspec import Struct

from chatbot.llm.connection import Connection
from chatbot.llm.errors import LlmError, LlmFailed, reason_of
from chatbot.llm.exchange import DONE, MALFORMED, Exchange, decode, read_usage
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import ChatMessage, Finish, Health, Hear
from chatbot.llm.refusal import from_stream
from events.catalogue import Parameters, Usage

NO_SUCH_ROUTE = (404, 405, 501)
BAD_REQUEST = (400, 422)
LENGTH_REASONS = frozenset({"length", "max_tokens"})
WITH_USAGE = {"stream_options": {"include_usage": True}}  # sent along until a server has refused it


class _Text(Struct):
    """A delta or a message. `content` is null in a delta that only names the role."""

    content: str | None = None


class _Choice(Struct):
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None
    index: int = 0


class _Chunk(Struct):
    """A chunk of a stream, a whole completion, or an error in place of either."""

    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Any = None
    object: str | None = None
    message: str = ""


_chunks = msgspec.json.Decoder(_Chunk)


def request_body(messages: tuple[ChatMessage, ...], parameters: Parameters, model: str) -> dict[str, Any]:
    """Only what was asked for is sent, so the server's defaults stand. do_sample False is temperature 0."""
    asked = {
        "model": model or None,
        "max_tokens": parameters.max_new_tokens,
        "temperature": 0 if parameters.do_sample is False else parameters.temperature,
        "top_p": parameters.top_p,
        "stop": parameters.stop or None,
        "seed": parameters.seed,
    }
    return {"messages": messages, "stream": True} | {name: value for name, value in asked.items() if value is not None}


class _Reply:
    """What has been learnt of a reply from its chunks."""

    def __init__(self, model: str, secret: str) -> None:
        self.model = model
        self.usage: Usage | None = None
        self.reason: str | None = None
        self.done = False
        self.failure: LlmFailed | None = None
        self._secret = secret

    def absorb(self, events: list[bytes]) -> str:
        """The text in these events, up to a `failure`: text that came in one read with it is kept."""
        text = ""
        for event in events:
            if event == DONE:
                self.done = True
                continue
            try:
                text += self.absorb_chunk(decode(_chunks, event))
            except LlmFailed as failure:
                self.failure = failure
                break
        return text

    def absorb_document(self, document: bytes) -> str:
        """The text of a whole completion, which is complete by being JSON. Raises LlmFailed."""
        completion = decode(_chunks, document)
        text = self.absorb_chunk(completion)
        if not completion.choices:
            raise LlmFailed(MALFORMED)
        return text

    def absorb_chunk(self, chunk: _Chunk) -> str:
        """Raises LlmFailed."""
        if chunk.error or chunk.object == "error":
            raise from_stream(chunk.error or chunk.message, self._secret)
        if chunk.usage is not None:
            self.usage = read_usage(chunk.usage) or self.usage
        self.model = chunk.model or self.model
        if not chunk.choices or chunk.choices[0].index != 0:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason == "error":
            raise LlmFailed("The model server ended the reply with an error")
        self.reason = choice.finish_reason or self.reason
        told = choice.delta or choice.message
        return (told.content or "") if told else ""

    def finish(self) -> Finish:
        """Only length is told apart: every other reason means that the model said all it would."""
        return Finish("length" if self.reason in LENGTH_REASONS else "stop", self.model, self.usage)


class OpenAiProvider:
    """`model` is the configured one, else the first that the server lists, as of the newest look."""

    name = "openai"

    def __init__(self, options: LlmOptions) -> None:
        self.model = options.model
        self.models = frozenset((options.model,) if options.model else ())
        self._configured = bool(options.model)
        self._secret = options.api_key
        self._connection = Connection(options)
        self._tells_usage: bool | None = None  # None: not known yet whether stream_options is understood

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool = False
    ) -> Finish:
        """Chunks without text (a reasoning model's thoughts) come as an empty piece: the model is at work."""
        model = parameters.model or self.model or await self._list_models()
        exchange = await self._ask(request_body(messages, parameters, model))
        reply = _Reply(model, self._secret)

        def absorb(events: list[bytes]) -> bool:
            text = reply.absorb(events)
            hear(text)
            if text:
                exchange.ride()
            # After a finish reason the reply is whole: a failure then costs no more than its usage.
            if reply.failure and reply.reason is None:
                raise reply.failure
            return reply.done or reply.reason is not None

        try:
            if not exchange.is_event_stream:
                hear(reply.absorb_document(await exchange.document()))
            else:
                await exchange.events(absorb)
                if reply.done:
                    await exchange.end()
                else:
                    await exchange.events_after_the_reply(reply.absorb)
        finally:
            exchange.close()
        return reply.finish()

    async def health(self) -> Health:
        try:
            await self._list_models()
        except LlmError as error:
            return Health(available=False, detail=reason_of(error))
        return Health(available=True)

    async def close(self) -> None:
        await self._connection.close()

    async def _list_models(self) -> str:
        """The first model's name, also remembered as ours unless one is configured; '' where the server lists none.

        Raises LlmError. A server without /v1/models may well answer completions.
        """
        try:
            told = await self._connection.get("/v1/models")
        except LlmFailed as error:
            if error.status not in NO_SUCH_ROUTE:
                raise
            return self.model
        models = told.get("data") if isinstance(told, dict) else None
        names = [str(one["id"]) for one in models or () if isinstance(one, dict) and one.get("id")]
        self.models = frozenset((*names, self.model) if self._configured else names)
        if not self._configured and names:
            self.model = names[0]
        return self.model

    async def _ask(self, body: dict[str, Any]) -> Exchange:
        """Wants the usage told in the stream, too, unless the server has refused a request because of that."""
        if self._tells_usage is not False:
            try:
                exchange = await self._post(body | WITH_USAGE)
            except LlmFailed as error:
                if error.status not in BAD_REQUEST or self._tells_usage:
                    raise
            else:
                self._tells_usage = True
                return exchange
        exchange = await self._post(body)
        self._tells_usage = False
        return exchange

    async def _post(self, body: dict[str, Any]) -> Exchange:
        try:
            return await self._connection.post("/v1/chat/completions", body)
        except LlmFailed as error:
            if error.status == 404 and not self._configured and body.get("model") == self.model:
                self.model = ""  # the server may have other models by now: look again next time
            raise
