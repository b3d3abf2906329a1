"""The protocol of midm_LLM_serving: POST /chat/stream, or POST /chat where a server cannot stream."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from chatbot.llm.http import lenient_json
from chatbot.llm.http.error_mapping import JSON_ERRORS, error_from_event
from chatbot.llm.http.http_client import ROUTE_MISSING_STATUSES, HttpClient
from chatbot.llm.http.http_response import DONE, END_SILENCE_S, MALFORMED, TRUNCATED, HttpResponse, read_usage
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    ChatMessage,
    Finish,
    Health,
    LlmError,
    LlmFailed,
    LlmUnavailable,
    ModelMessage,
    OnText,
    PartsMessage,
    ReplySink,
    Route,
    health_after,
    require_features,
)
from events.catalogue import Parameters, Usage

MAX_NEW_TOKENS = 128  # the server's own default, sent explicitly so that a reply cut there is known as such
NO_STREAM_S = 600.0  # how long a server is remembered as one that cannot stream: it may be updated meanwhile
KEEPALIVE_PIECE_S = 5.0  # while such a server writes: an empty piece, which says that the request still stands


class _Frame(Struct):
    """Any frame of /chat/stream. `accumulated` is not named here, so it is skipped, never kept."""

    type: str = ""
    content: str = ""
    message: Any = None
    total_tokens: Any = None


class _Answer(Struct):
    """The body of /chat."""

    response: str
    usage: Any = None


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def request_body(messages: tuple[ModelMessage, ...], parameters: Parameters) -> dict[str, Any]:
    """midm knows max_new_tokens, temperature and do_sample; it ignores stop, seed, top_p, model: not sent.

    A temperature asks for sampling, which midm does only with do_sample; temperature 0 means none, and is not sent
    because the server's library refuses it.
    """
    if [message for message in messages if isinstance(message, PartsMessage)]:
        messages = _text_messages(messages)
    body: dict[str, Any] = {
        "messages": messages,
        "max_new_tokens": parameters.max_new_tokens or MAX_NEW_TOKENS,
    }
    temperature, do_sample = parameters.temperature, parameters.do_sample
    if temperature is not None:
        do_sample = temperature > 0 and do_sample is not False
        if temperature > 0:
            body["temperature"] = temperature
    if do_sample is not None:
        body["do_sample"] = do_sample
    return body


def _text_messages(messages: tuple[ModelMessage, ...]) -> tuple[ModelMessage, ...]:
    """What midm takes of messages with parts: their text. Those of tools, and those without text, are left out."""
    texts = (ChatMessage(message.role, message.content) for message in messages if message.role != "tool")
    return tuple(message for message in texts if message.content.strip())


class _Reply:
    """A reply as far as its frames have been received."""

    def __init__(self, secret: str) -> None:
        self.done = False  # [DONE] has come
        self.finished = False  # `complete` has come, and no text after it
        self.failure: LlmError | None = None
        self.pieces = 0
        self._secret = secret
        self._joiner: lenient_json.TextJoiner | None = None  # from the first split character on

    def add_events(self, events: list[bytes]) -> str:
        """The text in these events, up to [DONE] or a `failure`: text that came in one read with it is kept."""
        text = ""
        for event in events:
            try:
                frame, is_clean = _decode_frame(event), True
            except JSON_ERRORS:
                if event.strip() == DONE:
                    self.done = self.finished = True
                    break
                try:
                    frame, is_clean = _read_frame(event), False
                except JSON_ERRORS:
                    self.failure = LlmFailed(MALFORMED)
                    break
            if frame.type == "chunk":
                text += frame.content if is_clean and self._joiner is None else self._join(frame.content)
                self.finished = False
            elif frame.type == "complete":
                self.finished = True
                self.pieces = frame.total_tokens if type(frame.total_tokens) is int else 0
            elif frame.type == "error":
                self.failure = error_from_event(frame.message or "", self._secret)
                break
        return text

    def check_ended(self) -> None:
        """The body has ended. Raises LlmFailed if the reply has not."""
        if not self.finished:
            raise LlmFailed(TRUNCATED)

    def end(self) -> str:
        """The rest of the text: a replacement for a character whose second part has not come."""
        return "" if self._joiner is None else self._joiner.end()

    def _join(self, piece: str) -> str:
        self._joiner = self._joiner or lenient_json.TextJoiner()
        return self._joiner.join(piece)


def _read_frame(event: bytes) -> _Frame:
    """Reads a frame that the strict decoder refuses leniently; it has no type if it is no frame (a heartbeat).

    Raises JSON_ERRORS, also for text in an unknown shape.
    """
    if not event.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return _Frame()
    fields = lenient_json.load(event)
    kind, content = fields.get("type"), lenient_json.text_of(fields.get("content"))
    if not isinstance(kind, str | None) or (kind == "chunk" and content is None):
        raise ValueError("no frame, or a chunk whose content is no text")
    return _Frame(
        type=kind or "",
        content=content or "",
        message=fields.get("message"),
        total_tokens=fields.get("total_tokens"),
    )


def _read_answer(document: bytes) -> _Answer | None:
    """The complete reply in a document of /chat; None if it has none. Raises LlmFailed."""
    with suppress(*JSON_ERRORS):  # then read leniently
        return _decode_answer(document)
    try:
        fields = lenient_json.load(document)
    except JSON_ERRORS as error:
        raise LlmFailed(MALFORMED) from error
    if not isinstance(fields, dict) or fields.get("response") is None:
        return None
    response = lenient_json.text_of(fields["response"])
    if response is None:
        return None
    joiner = lenient_json.TextJoiner()
    return _Answer(joiner.join(response) + joiner.end(), fields.get("usage"))


class _Keepalive:
    """Sends an empty piece to all replies that wait for a whole answer, every KEEPALIVE_PIECE_S."""

    def __init__(self) -> None:
        self._waiting: set[OnText] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, on_text: OnText) -> None:
        self._waiting.add(on_text)
        if self._timer is None:
            self._schedule()

    def end(self, on_text: OnText) -> None:
        self._waiting.discard(on_text)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(KEEPALIVE_PIECE_S, self._send)

    def _send(self) -> None:
        self._schedule()
        for on_text in tuple(self._waiting):
            on_text("")


class MidmProvider:
    """Usage: only /chat reports it. A stream's `total_tokens` counts the pieces of the reply, and the prompt's tokens
    are not reported, so a streamed reply has no usage: half a number would be added up as if it were complete.

    The server reports no finish reason either: it is length if as many tokens came as were allowed, else stop.
    """

    name = "midm"
    takes: frozenset[str] | None = frozenset()

    def __init__(self, options: LlmOptions) -> None:
        self.model = options.model or "midm"
        self.models = frozenset((self.model,))
        self.lists_models = True
        self._secret = options.api_key
        self._client = HttpClient(options)
        self._keepalive = _Keepalive()
        self._no_stream_until_s = 0.0

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
        if messages:
            require_features(frozenset(), messages[-1], parameters)
        on_text = sink.text
        body = request_body(messages, parameters)
        if stream and time.monotonic() >= self._no_stream_until_s:
            try:
                response = await self._post("/chat/stream", body)
            except LlmFailed as error:
                if error.status not in ROUTE_MISSING_STATUSES:
                    raise
            else:
                finish = await self._stream(response, body, on_text)
                if finish is not None:
                    return finish
            self._no_stream_until_s = time.monotonic() + NO_STREAM_S  # it cannot stream
        return await self._reply_without_stream(body, on_text)

    async def _stream(self, response: HttpResponse, body: dict[str, Any], on_text: OnText) -> Finish | None:
        """None if the response is neither a stream nor a reply."""
        reply = _Reply(self._secret)

        def add_events(events: list[bytes]) -> bool:
            if text := reply.add_events(events):
                on_text(text)
                if not response.may_coalesce:
                    response.allow_coalescing()
            if reply.failure:
                raise reply.failure
            if not reply.done and reply.finished != response.is_ending:
                response.end_after(END_SILENCE_S if reply.finished else None)
            return reply.done

        document: bytes | None = None
        try:
            document = await response.read(add_events)
            if document is None:
                reply.check_ended()
            if reply.done:
                await response.end()
        except LlmError:
            if not reply.finished:  # else the reply is whole
                raise
        finally:
            response.close()
        if document is not None:
            answer = _read_answer(document)
            if answer is None:
                return None
            on_text(answer.response)
            return self._finish(read_usage(answer.usage), body)
        if rest := reply.end():
            on_text(rest)
        return self._finish(None, body, pieces=reply.pieces)

    async def health(self) -> Health:
        try:
            document = await self._client.get("/health")
        except LlmError as error:
            return health_after(error)
        loaded = isinstance(document, dict) and document.get("model_loaded") is True
        return Health(available=loaded, detail="" if loaded else "The model is not loaded", loading=not loaded)

    async def close(self) -> None:
        await self._client.close()

    async def _reply_without_stream(self, body: dict[str, Any], on_text: OnText) -> Finish:
        """The server sends nothing until the reply is complete, so only the limit on the whole reply applies."""
        self._keepalive.begin(on_text)
        try:
            answer = await self._post_chat(body)
        finally:
            self._keepalive.end(on_text)
        on_text(answer.response)
        return self._finish(read_usage(answer.usage), body)

    async def _post_chat(self, body: dict[str, Any]) -> _Answer:
        response = await self._post("/chat", body)
        try:
            answer = _read_answer(await response.document())
        finally:
            response.close()
        if answer is None:
            raise LlmFailed(MALFORMED)
        return answer

    async def _post(self, path: str, body: dict[str, Any]) -> HttpResponse:
        """As HttpClient.post; LlmUnavailable instead of a 5xx while the server's model is not loaded."""
        try:
            return await self._client.post(path, body)
        except LlmFailed as error:
            if (error.status or 0) >= 500 and not (health := await self.health()).available:
                message = f"The model server cannot reply now: {health.detail}"
                raise LlmUnavailable(message, status=error.status) from error
            raise

    def _finish(self, usage: Usage | None, body: dict[str, Any], *, pieces: int = 0) -> Finish:
        tokens = usage.completion_tokens if usage else pieces
        reason = "length" if tokens >= body["max_new_tokens"] else "stop"
        return Finish(reason=reason, model=self.model, usage=usage)
