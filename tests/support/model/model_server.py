"""A model server on a real socket that speaks midm and openai, answers as it is told and records what it was asked.

    async with ModelServer() as server:
        server.script(pieces=("Hel", "lo"), then="cut")        # the next request; times=3 the next three; None: all
        ... ask server.url ...
        await server.wait_aborted()                            # a client closed its connection before the end

Without a script it answers 'You said: <last user message>', a word at a time, `delay_s` before each.

As a process: `python -m tests.support.model.model_server --port 0` prints {"url", "port"} as its first line, takes
scripts at POST /_script (the fields of Script, and times) and settings at POST /_set (the names of SETTINGS),
releases at POST /_release and shows the requests at GET /_requests.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import msgspec

from tests.support.model.model_script import Midm, OpenAi, Request, Script

__all__ = ["ModelServer", "Request", "Script"]

SETTINGS = ("delay_s", "model", "model_loaded", "streams", "protocols", "api_key", "accepts_stream_options", "status")

DIALECTS: dict[str, type[Midm] | type[OpenAi]] = {
    "/chat": Midm,
    "/chat/stream": Midm,
    "/v1/chat/completions": OpenAi,
}


class ModelServer:
    """Settings may be changed at any time; `requests` holds every request for a reply, in order of arrival."""

    def __init__(self, *, port: int = 0, delay_s: float = 0.0, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self.delay_s = delay_s
        self.model = "fake-model"
        self.model_loaded = True  # as /health tells it
        self.streams = True  # False: midm's first version, which answers /chat/stream with a JSON message
        self.protocols: tuple[str, ...] = ("midm", "openai")
        self.api_root = "/v1"  # where OpenAI's API is
        self.api_key: str | None = None  # when set, anything else gets 401
        self.accepts_stream_options = True  # False: 400, as older servers do
        self.status = 200  # of /health and /v1/models
        self.closes_after_reply = False  # without announcing it, as llama.cpp does after a stream
        self.accepted = 0  # connections so far
        self.requests: list[Request] = []
        self.probes: Counter[str] = Counter()  # how often /health and /v1/models were asked
        self.connections: set[_Connection] = set()
        self.released = asyncio.Event()
        self.choose: Callable[[Request], Script | None] = lambda request: None  # a script by what is asked
        self._steps = asyncio.Semaphore(0)
        self._always = Script()
        self._next: list[Script] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def aborted(self) -> list[Request]:
        return [request for request in self.requests if request.aborted_at is not None]

    def script(self, *, times: int | None = 1, **fields: Any) -> None:
        """Answers the next `times` requests so; None: all that have no other script."""
        script = Script(**fields)
        if times is None:
            self._always = script
        else:
            self._next.extend([script] * times)

    def clear_scripts(self) -> None:
        """Forgets the scripts that no request has taken."""
        self._next.clear()
        self._always = Script()

    def take_script(self) -> Script:
        return self._next.pop(0) if self._next else self._always

    def release(self) -> None:
        """Lets every answer go on that waits at its `hold_after`, and those to come."""
        self.released.set()

    def step(self) -> None:
        """Lets the next piece of a stepwise answer go."""
        self._steps.release()

    async def wait_requests(self, count: int = 1, timeout_s: float = 20.0) -> None:
        await self._wait(lambda: len(self.requests) >= count, timeout_s)

    async def wait_aborted(self, count: int = 1, timeout_s: float = 20.0) -> None:
        await self._wait(lambda: len(self.aborted) >= count, timeout_s)

    async def _wait(self, reached: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not reached():
                await asyncio.sleep(0.002)

    def standard_path(self, path: str) -> str:
        """`path` with /v1 in place of `api_root`; a path that leads nowhere where it is below another root."""
        if path.startswith(f"{self.api_root}/"):
            return path.replace(self.api_root, "/v1", 1)
        return "/nowhere" if path.endswith(("/chat/completions", "/models")) else path

    async def start(self) -> None:
        """Listens; after stop() again on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening and drops every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drop()
        while self.connections:
            await asyncio.sleep(0.001)
        if self._server is not None:
            await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def answer_probe(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of everything that is not a request for a reply."""
        if path in ("/health", "/v1/models"):
            self.probes[path] += 1
        if path == "/health" and "midm" in self.protocols:
            return self.status, {"status": "healthy", "model_loaded": self.model_loaded, "device": "cpu"}
        if path == "/v1/models" and "openai" in self.protocols:
            return self.status, {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        if path == "/_script":
            self.script(times=body.pop("times", 1), **msgspec.structs.asdict(msgspec.convert(body, Script)))
        elif path == "/_set":
            for name in SETTINGS:
                setattr(self, name, body.get(name, getattr(self, name)))
        elif path == "/_release":
            self.release()
        elif path != "/_requests":
            return 404, {"detail": "Not Found"}
        return 200, [msgspec.to_builtins(request) for request in self.requests]


class _Connection(asyncio.Protocol):
    """One client connection: reads a request, answers it in a task, notices when the client leaves."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        self._server.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._request is not None and self._request.ended_at is None:
            self._request.aborted_at = time.monotonic()
        if self._task is not None:
            self._task.cancel()

    def drop(self) -> None:
        if self._request is not None and self._request.ended_at is None:
            self._request.ended_at = time.monotonic()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._take_request()

    def _take_request(self) -> None:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if self._task is not None or not separator:
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) >= length:
            self._buffer = rest[length:]
            path = self._server.standard_path(line.split(" ")[1].partition("?")[0])
            body = json.loads(rest[:length]) if length else {}
            self._task = asyncio.get_running_loop().create_task(self._answer(path, headers, body))
            self._task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._task = None
        if not task.cancelled():
            task.result()
            self._take_request()

    async def _answer(self, path: str, headers: dict[str, str], body: Any) -> None:
        dialect = DIALECTS.get(path)
        if self._server.api_key and headers.get("authorization") != f"Bearer {self._server.api_key}":
            self._send_json(401, {"error": {"message": "wrong key"}})
        elif dialect is None or dialect.__name__.lower() not in self._server.protocols:
            self._send_json(*self._server.answer_probe(path, body))
        else:
            request = Request(path=path, headers=headers, body=body, received_at=time.monotonic())
            self._request = request
            self._server.requests.append(request)
            await self._reply(dialect, request)
            request.ended_at = time.monotonic()
            if self._server.closes_after_reply:
                self._transport.close()

    async def _reply(self, dialect: "type[Midm] | type[OpenAi]", request: Request) -> None:
        if request.path == "/chat/stream" and not self._server.streams:
            self._send_json(200, {"message": "Streaming endpoint not implemented yet"})
            return
        if "stream_options" in request.body and not self._server.accepts_stream_options:
            self._send_json(400, {"error": {"message": "Unrecognized request argument: stream_options"}})
            return
        script = self._server.choose(request) or self._server.take_script()
        frames = dialect(script, request, self._server.model)
        if script.status == 0:
            self._transport.close()
            return
        if script.status != 200 or script.body is not None:
            await asyncio.sleep(script.first_delay_s)
            body = script.body if script.body is not None else {"detail": script.error}
            self._send_json(script.status, body, script.headers)
        elif script.plain_json or request.path == "/chat" or request.body.get("stream") is False:
            delay_s = self._server.delay_s if script.delay_s is None else script.delay_s
            await asyncio.sleep(script.first_delay_s + delay_s * len(frames.pieces))
            await self._end(frames, whole=True)
        else:
            await self._stream(frames, request)

    async def _stream(self, frames: Midm | OpenAi, request: Request) -> None:
        script = frames.script
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if script.raw is not None:
            self._send_chunk(script.raw)
        else:
            self._send_chunk(frames.start())
            await asyncio.sleep(script.first_delay_s)
            for number in range(len(frames.pieces)):
                if number == script.hold_after:
                    await self._server.released.wait()
                if script.stepwise:
                    await self._server._steps.acquire()
                await asyncio.sleep(self._server.delay_s if script.delay_s is None else script.delay_s)
                self._send_chunk(frames.piece(number))
                request.pieces_sent = number + 1
            if script.hold_after is not None and script.hold_after >= len(frames.pieces):
                await self._server.released.wait()
        await self._end(frames, whole=False)

    async def _end(self, frames: Midm | OpenAi, *, whole: bool) -> None:
        """Does what the script says happens `then`."""
        script = frames.script
        match script.then:
            case "silence" | "heartbeats":
                await self._stay(beats=script.then == "heartbeats")
            case "reset":
                self._transport.abort()
            case "cut":
                if whole:
                    self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                self._transport.close()
            case _ if whole:
                self._send_json(200, frames.whole())
            case "finish" | "no_done" if script.raw is None:
                for frame in frames.finish() + (["data: [DONE]\n\n"] if script.then == "finish" else []):
                    await asyncio.sleep(script.end_delay_s)
                    self._send_chunk(frame)
            case "error":
                self._send_chunk(frames.error())
            case "malformed":
                self._send_chunk("data: {this is no JSON\n\n")
            case "long_line":
                self._send_chunk("data: " + "x" * 2_000_000)
            case "finish" | "no_done" | "end":
                pass
        if not whole:
            await asyncio.sleep(script.end_delay_s)
            self._transport.write(b"0\r\n\r\n")

    async def _stay(self, *, beats: bool) -> None:
        while beats:
            self._send_chunk("data: {}\n\n")
            await asyncio.sleep(0.02)
        await asyncio.Event().wait()

    def _send_chunk(self, text: str) -> None:
        data = text.encode()
        if data:
            self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()
        lines = [
            f"HTTP/1.1 {status} Scripted",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)


async def main(arguments: argparse.Namespace) -> None:
    async with ModelServer(port=arguments.port, delay_s=arguments.delay_s) as server:
        print(json.dumps({"url": server.url, "port": server.port}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free one, told on the first line")
    parser.add_argument("--delay-s", type=float, default=0.0, help="seconds before each piece")
    asyncio.run(main(parser.parse_args()))
