"""A model server that costs next to nothing: Mi:dm's protocol and OpenAI's, every byte made beforehand.

It shares a core with the load, so it is one protocol class without tasks. Each token is a write of its own, as a real
model's is, even at full speed. `GET /shape?tokens=64&delay_ms=20` changes the replies to come.
"""

import argparse
import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

from tests.bench.harness.bench_loop import loop_factory

TOKENS_MAX = 1000  # a token's number has three digits
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def words(tokens: int) -> list[str]:
    """A reply's tokens, of one length and each another, so that a lost, doubled or moved one shows."""
    return [f" w{number:03d}" for number in range(tokens)]


@dataclass(frozen=True)
class Shape:
    """`delay_ms` passes before each token of a stream. `drop` numbers a token to leave out: a fault to be found."""

    tokens: int = 64
    delay_ms: float = 0.0
    drop: int = -1


def frame(event: Any) -> bytes:
    data = b"data: " + (event if isinstance(event, bytes) else compact(event)) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def whole(document: Any, status: bytes = b"200 OK") -> bytes:
    body = compact(document)
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


@dataclass(frozen=True)
class Stream:
    """The writes of a streamed reply."""

    first: bytes
    tokens: Sequence[bytes]
    last: bytes


class Replies:
    """Every answer of one shape."""

    def __init__(self, shape: Shape) -> None:
        self.delay_s = shape.delay_ms / 1000
        said = words(shape.tokens)
        kept = [word for number, word in enumerate(said) if number != shape.drop]
        usage = {"prompt_tokens": 20, "completion_tokens": len(said), "total_tokens": 20 + len(said)}
        self.midm_whole = whole({"response": "".join(kept), "usage": usage})
        self.midm = self._midm(said, kept)
        self.openai = self._openai(kept, usage)
        message = {"role": "assistant", "content": "".join(kept)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.openai_whole = whole({**ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": usage})

    @staticmethod
    def _midm(said: list[str], kept: list[str]) -> Stream:
        chunks, text = [], ""
        for number, word in enumerate(kept, start=1):
            text += word
            chunks.append(frame({"type": "chunk", "content": word, "accumulated": text, "token_count": number}))
        complete = frame({"type": "complete", "full_response": "".join(said), "total_tokens": len(said)})
        start = frame({"type": "start", "message": "Stream started"})
        return Stream(STREAM_HEAD + start, chunks, complete + frame(b"[DONE]") + LAST_CHUNK)

    @staticmethod
    def _openai(kept: list[str], usage: dict[str, int]) -> Stream:
        def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
            return frame({**ENVELOPE, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

        told = frame({**ENVELOPE, "choices": [], "usage": usage})
        last = chunk({}, "stop") + told + frame(b"[DONE]") + LAST_CHUNK
        first = STREAM_HEAD + chunk({"role": "assistant", "content": ""})
        return Stream(first, [chunk({"content": word}) for word in kept], last)


ENVELOPE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "fake"}
HEALTHY = whole({"status": "healthy", "model_loaded": True, "device": "cpu", "cuda_available": False})
MODELS = whole({"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "bench"}]})
NOT_FOUND = whole({"detail": "Not Found"}, b"404 Not Found")


class FakeModel:
    """What its connections share."""

    def __init__(self, protocol: str, shape: Shape) -> None:
        self.protocol = protocol
        self.replies = Replies(shape)

    def answer(self, path: bytes, body: bytes) -> bytes | Stream:
        route, _, query = path.partition(b"?")
        midm = self.protocol == "midm"
        if route == b"/chat/stream" and midm:
            return self.replies.midm
        if route == b"/chat" and midm:
            return self.replies.midm_whole
        if route == b"/v1/chat/completions" and not midm:
            return self.replies.openai if b'"stream":true' in body else self.replies.openai_whole
        if route == b"/health":
            return HEALTHY if midm else whole({"status": "ok"})
        if route == b"/v1/models" and not midm:
            return MODELS
        return self._reshape(query) if route == b"/shape" else NOT_FOUND

    def _reshape(self, query: bytes) -> bytes:
        asked = {name: float(value) for name, value in parse_qsl(query.decode())}
        tokens, drop = int(asked.get("tokens", 64)), int(asked.get("drop", -1))
        self.replies = Replies(Shape(min(tokens, TOKENS_MAX), asked.get("delay_ms", 0.0), drop))
        return whole({"tokens": tokens})


class Connection(asyncio.Protocol):
    """One request after the other: what comes while a stream is written waits for its end."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._stream: Stream | None = None
        self._sent = 0
        self._delay_s = 0.0
        self._began_s = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._take()

    def _take(self) -> None:
        while self._stream is None and (head_end := self._received.find(b"\r\n\r\n")) >= 0:
            length = CONTENT_LENGTH.search(self._received, 0, head_end + 2)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            path = self._received.split(b" ", 2)[1]
            answer = self._model.answer(path, self._received[head_end + 4 : end])
            self._received = self._received[end:]
            if isinstance(answer, bytes):
                self._transport.write(answer)
            else:
                self._begin(answer)

    def _begin(self, stream: Stream) -> None:
        self._stream, self._sent = stream, 0
        self._delay_s, self._began_s = self._model.replies.delay_s, self._loop.time()
        self._transport.write(stream.first)
        self._next()

    def _next(self) -> None:
        if self._delay_s and self._stream is not None and self._sent < len(self._stream.tokens):
            # By the clock of the reply's beginning: a late token does not make the ones after it late.
            self._loop.call_at(self._began_s + (self._sent + 1) * self._delay_s, self._token)
        else:
            self._loop.call_soon(self._token)

    def _token(self) -> None:
        stream = self._stream
        if stream is None or self._transport.is_closing():
            return
        if self._sent < len(stream.tokens):
            self._transport.write(stream.tokens[self._sent])
            self._sent += 1
            self._next()
            return
        self._transport.write(stream.last)
        self._stream = None
        self._take()


async def main(port: int, protocol: str) -> None:
    model = FakeModel(protocol, Shape())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--protocol", choices=("midm", "openai"), default="midm")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(options.port, options.protocol))
