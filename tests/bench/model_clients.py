"""What reading replies costs: our client for model servers, and aiohttp's in its place, on the same path.

    python -m tests.bench.model_clients --rounds 5

Both give the bytes of each read to the same parsers, and their text to a callback. The figure is the CPU time of this
process, which does nothing else, for each turn or token; the fake model is another process. The two take turns within
a round, and the median over the rounds is what counts. A wrong number of tokens fails the command.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import aiohttp
import msgspec

from chatbot.llm.http.http_response import SseParser
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    ChatMessage,
    Finish,
    ReplySink,
    TextSink,
)
from chatbot.llm.providers.openai_completion import Completion
from chatbot.llm.providers.openai_provider import OpenAiProvider, request_body
from events.catalogue import Parameters
from tests.bench.harness import tables
from tests.bench.harness.bench_loop import loop_factory
from tests.bench.harness.bench_processes import ROOT, started
from tests.support.programs.external_programs import free_port

MESSAGES = (ChatMessage("user", "What is an event?"),)
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
TURNS_EACH = 40  # of each client, where no pace is kept
PACED_TURNS = 2


@dataclass(frozen=True)
class Case:
    """`clients` ask at a time for replies of so many tokens, each `delay_ms` after the last."""

    title: str
    clients: int
    tokens: int
    delay_ms: float
    unit: str


CASES = (
    Case("short turn, C=16, 1 token", 16, 1, 0.0, "us/turn"),
    Case("turn in a burst, C=16, 64 tokens", 16, 64, 0.0, "us/turn"),
    Case("paced token, 32 replies x 50 tokens/s", 32, 64, 20.0, "us/token"),
    Case("paced token, 256 replies x 50 tokens/s", 256, 64, 20.0, "us/token"),
)


class AiohttpProvider:
    """OpenAiProvider.stream() on aiohttp's client: what it would be at the least, without a health check or lists."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)

    async def stream(self, messages: tuple[ChatMessage, ...], parameters: Parameters, sink: ReplySink) -> Finish:
        body = request_body(messages, parameters, "m") | {"stream_options": {"include_usage": True}}
        reply, parser = Completion("m", "", sink), SseParser(1_048_576)
        data = msgspec.json.encode(body)
        async with self._session.post(self._url, data=data, headers=HEADERS) as response:
            async for piece in response.content.iter_any():
                if events := parser.feed(piece):
                    reply.add_events(events)
                    if reply.failure:
                        raise reply.failure
        return reply.finish()

    async def close(self) -> None:
        await self._session.close()


def ours(url: str) -> OpenAiProvider:
    return OpenAiProvider(LlmOptions(server_url=url, model="m"))


def ours_apart(url: str) -> OpenAiProvider:
    """Without reading many replies together, which aiohttp's client could not do."""
    return OpenAiProvider(LlmOptions(server_url=url, model="m", read_coalesce_max_s=0))


Make = Callable[[str], OpenAiProvider | AiohttpProvider]
CLIENTS: dict[str, Make] = {"ours": ours, "ours, each reply by itself": ours_apart, "aiohttp": AiohttpProvider}


async def measure(url: str, make: Make, case: Case) -> float:
    """Microseconds of CPU for each operation, after a turn of each client that is not counted."""
    provider, heard = make(url), 0

    def on_text(text: str) -> None:
        nonlocal heard
        heard += text.count("w")  # one in each token

    async def ask(turns: int) -> None:
        for _ in range(turns):
            await provider.stream(MESSAGES, Parameters(), TextSink(on_text))

    turns = PACED_TURNS if case.delay_ms else TURNS_EACH
    await asyncio.gather(*(ask(1) for _ in range(case.clients)))
    heard, before_s = 0, time.process_time()
    await asyncio.gather(*(ask(turns) for _ in range(case.clients)))
    used_s = time.process_time() - before_s
    await provider.close()
    expected = case.clients * turns * case.tokens
    if heard != expected:
        raise RuntimeError(f"{case.title}: {heard} tokens in place of {expected}")
    return used_s * 1e6 / (expected if case.unit == "us/token" else case.clients * turns)


def run(url: str, rounds: int) -> list[tuple[str, ...]]:
    rows = []
    for case in CASES:
        with urlopen(f"{url}/shape?tokens={case.tokens}&delay_ms={case.delay_ms}") as answer:
            answer.read()
        figures: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for number in range(rounds):
            for name in list(CLIENTS)[:: -1 if number % 2 else 1]:
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    figures[name].append(runner.run(measure(url, CLIENTS[name], case)))
        ratio = statistics.median(a / b for a, b in zip(figures["ours"], figures["aiohttp"], strict=True))
        rows.append((case.title, *(f"{tables.shown(figures[name])} {case.unit}" for name in CLIENTS), f"{ratio:.2f}x"))
    return rows


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    model = [
        sys.executable,
        str(ROOT / "tests/bench/servers/fake_model.py"),
        "--port",
        str(port),
        "--protocol",
        "openai",
    ]
    way = {"PYTHONPATH": str(ROOT)}
    with (
        tempfile.TemporaryDirectory() as folder,
        started(model, folder=Path(folder), environment=way, ready=f"{url}/health"),
    ):
        print(tables.table(("work", *CLIENTS, "ours / aiohttp"), run(url, options.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
