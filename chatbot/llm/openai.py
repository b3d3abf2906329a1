"""The /v1/chat/completions protocol: vLLM, llama.cpp, Ollama, LiteLLM and others."""

from typing import Any

from chatbot.llm.completion import Completion
from chatbot.llm.connection import Connection
from chatbot.llm.errors import LlmError, LlmFailed, reason_of
from chatbot.llm.exchange import SILENCE_S, Exchange
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import ChatMessage, Finish, Health, Hear
from events.catalogue import Parameters

NO_SUCH_ROUTE = (404, 405, 501)
BAD_REQUEST = (400, 422)
WITH_USAGE = {"stream_options": {"include_usage": True}}  # sent along until a server has refused it


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
        """Chunks without text (a reasoning model's thoughts) come as an empty piece: the model is at work.

        A reply is read to [DONE] or the end of its body: some servers write on after a finish reason.
        """
        model = parameters.model or self.model or await self._list_models()
        exchange = await self._ask(request_body(messages, parameters, model))
        reply = Completion(model, self._secret)

        def absorb(events: list[bytes]) -> bool:
            text = reply.absorb(events)
            hear(text)
            if text:
                exchange.ride()
            if reply.failure:
                raise reply.failure
            if reply.reason is not None and not reply.done and (text or not exchange.is_ending):
                exchange.end_after(SILENCE_S if reply.is_final else None)
            return reply.done

        try:
            document = await exchange.read(absorb)
            if document is not None:
                hear(reply.absorb_document(document))
            elif reply.done:
                await exchange.end()
            else:
                reply.check_ended()
        except LlmFailed:
            if not reply.is_final:  # else the reply is whole: this costs no more than its usage
                raise
        finally:
            exchange.close()
        if rest := reply.end():
            hear(rest)
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
