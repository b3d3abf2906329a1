"""A pool of model servers on real sockets: what each failure does to the reply, and to the server's next ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider import ChatMessage, LlmError, LlmFailed, LlmOverloaded, LlmUnavailable, Route, TextSink
from chatbot.llm.provider_factory import create_provider
from chatbot.llm.servers.circuit_breaker import FAILURES_MAX
from chatbot.llm.servers.pooled_server import PooledServer, ServerOptions
from chatbot.llm.servers.server_choice import home_of
from chatbot.llm.servers.server_pool import ServerPool
from events.catalogue import Parameters
from tests.support.model.model_server import ModelServer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Pool:
    """A pool over model servers called a, b, ...; its circuit breakers have a clock of their own."""

    def __init__(self, pool: ServerPool, clock: Clock) -> None:
        self.pool = pool
        self.clock = clock

    def session_at(self, name: str) -> str:
        """A session whose home is this server."""
        return next(f"{no}" for no in range(999) if home_of(self.pool.servers, f"{no}").name == name)

    def breaker(self, name: str) -> str:
        return next(status.breaker for status in self.pool.statuses if status.name == name)

    async def ask(self, session: str = "", text: str = "hello", pieces: list[str] | None = None, **fields: Any) -> str:
        """Asks; returns the name of the server that answered. `pieces` gets the text."""
        route = Route(session)
        sink = TextSink((pieces if pieces is not None else []).append)
        await self.pool.stream((ChatMessage("user", text),), Parameters(**fields), sink, route=route)
        return route.server


@asynccontextmanager
async def pool_of(
    *servers: ModelServer, models: tuple[str, ...] = (), concurrency: int = 0, **options: Any
) -> AsyncIterator[Pool]:
    clock = Clock()
    llm = LlmOptions(**{"retry_backoff_s": 0.001, "retries_max": 0, "first_token_timeout_s": 5.0, **options})
    pooled = []
    for number, server in enumerate(servers):
        own = LlmOptions(**{"server_url": server.url, "retries_max": 0, **options})
        provider = create_provider("openai" if "openai" in server.protocols else "midm", own, EmbeddedOptions())
        named = ServerOptions(name=chr(ord("a") + number), llm=own, models=models, concurrency=concurrency)
        pooled.append(PooledServer(named, provider, 60.0, clock))
    pool = ServerPool(pooled, llm)
    await pool.health()
    yield Pool(pool, clock)
    await pool.close()


@pytest.fixture
async def servers() -> AsyncIterator[tuple[ModelServer, ModelServer]]:
    async with ModelServer() as a, ModelServer() as b:
        yield a, b


Servers = tuple[ModelServer, ModelServer]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 0},
        {"status": 429},
        {"status": 401},
        {"status": 404},
        {"then": "cut", "pieces": ()},
        {"then": "reset", "pieces": ()},
        {"then": "malformed", "pieces": ()},
        {"then": "error", "pieces": ()},
        {"then": "silence", "pieces": ()},
    ],
    ids=str,
)
async def test_a_server_that_fails_before_the_first_text_is_followed_by_another(
    fault: dict[str, Any], servers: Servers
) -> None:
    a, b = servers
    async with pool_of(a, b, first_token_timeout_s=0.1 if fault.get("then") == "silence" else 5.0) as pool:
        b.script(times=None, **fault)
        pieces: list[str] = []
        assert await pool.ask(pool.session_at("b"), "hello", pieces) == "a"
        assert "".join(pieces) == "You said: hello"
        assert len(b.requests) >= 1


@pytest.mark.parametrize("fault", [{"status": 400}, {"status": 413}, {"status": 422}], ids=str)
async def test_a_request_that_is_at_fault_is_asked_once_and_opens_no_breaker(
    fault: dict[str, Any], servers: Servers
) -> None:
    a, b = servers
    async with pool_of(a, b) as pool:
        await pool.ask(pool.session_at("b"))  # so that it is known to take a request for the usage
        b.script(times=None, **fault)
        for _ in range(FAILURES_MAX + 1):
            with pytest.raises(LlmFailed):
                await pool.ask(pool.session_at("b"))
        assert pool.breaker("b") == "closed"
        assert a.requests == []


@pytest.mark.parametrize("then", ["cut", "reset", "malformed", "error"])
async def test_a_reply_that_has_begun_is_not_begun_again(then: str, servers: Servers) -> None:
    a, b = servers
    async with pool_of(a, b) as pool:
        b.script(times=None, pieces=("Hel", "lo"), then=then)
        pieces: list[str] = []
        with pytest.raises(LlmError) as failed:
            await pool.ask(pool.session_at("b"), "hello", pieces)
        assert failed.value.has_text
        assert "".join(pieces).startswith("Hel")
        assert a.requests == []


async def test_a_server_that_keeps_failing_is_left_alone_and_gets_one_probe(servers: Servers) -> None:
    a, b = servers
    async with pool_of(a, b) as pool:
        session = pool.session_at("b")
        b.script(times=None, status=500)
        for _ in range(10):
            assert await pool.ask(session) == "a"
        assert len(b.requests) == FAILURES_MAX
        assert pool.breaker("b") == "open"
        pool.clock.now_s += 1.0
        assert pool.breaker("b") == "half_open"
        await asyncio.gather(*(pool.ask(session) for _ in range(5)))
        assert len(b.requests) == FAILURES_MAX + 1
        assert pool.breaker("b") == "open"
        b.clear_scripts()
        pool.clock.now_s += 2.0
        assert await pool.ask(session) == "b"
        assert pool.breaker("b") == "closed"


async def test_a_probe_succeeds_with_its_first_text(servers: Servers) -> None:
    a, b = servers
    async with pool_of(a, b) as pool:
        session = pool.session_at("b")
        b.script(times=FAILURES_MAX, status=500)
        for _ in range(FAILURES_MAX):
            await pool.ask(session)
        pool.clock.now_s += 1.0
        b.script(pieces=("one", "two"), hold_after=1)
        pieces: list[str] = []
        probe = asyncio.create_task(pool.ask(session, "hello", pieces))
        async with asyncio.timeout(10):
            while not pieces:
                await asyncio.sleep(0.001)
        assert pool.breaker("b") == "closed"
        b.release()
        assert await probe == "b"


async def test_who_waits_for_room_is_served_once_a_probe_has_succeeded(servers: Servers) -> None:
    a, b = servers
    async with pool_of(a, b, concurrency=2) as pool:
        b.script(times=FAILURES_MAX, status=500)
        for _ in range(FAILURES_MAX):
            await pool.ask(pool.session_at("b"))
        for server in servers:
            server.script(times=None, pieces=("one", "two"), hold_after=1)
        full = [asyncio.create_task(pool.ask(pool.session_at("a"))) for _ in range(2)]
        await a.wait_requests(FAILURES_MAX + 2)
        pool.clock.now_s += 1.0
        probe = asyncio.create_task(pool.ask(pool.session_at("b")))
        waiting = asyncio.create_task(pool.ask(pool.session_at("b")))
        await b.wait_requests(FAILURES_MAX + 2)
        for server in servers:
            server.release()
        assert await asyncio.gather(*full, probe, waiting) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_is_not_asked_for_as_long_as_it_says(status: int, servers: Servers) -> None:
    a, b = servers
    async with pool_of(a, b) as pool:
        session = pool.session_at("b")
        b.script(status=status, headers={"Retry-After": "20"})
        assert await pool.ask(session) == "a"
        pool.clock.now_s += 19.9
        assert await pool.ask(session) == "a"
        assert len(b.requests) == 1
        pool.clock.now_s += 0.1
        assert await pool.ask(session) == "b"


async def test_if_all_are_overloaded_the_error_says_for_how_long(servers: Servers) -> None:
    a, b = servers
    async with pool_of(a, b) as pool:
        a.script(status=429, headers={"Retry-After": "20"})
        b.script(status=429, headers={"Retry-After": "30"})
        with pytest.raises(LlmOverloaded):
            await pool.ask()
        with pytest.raises(LlmError, match="No model server") as refused:
            await pool.ask()
        assert refused.value.retry_after_s == 20.0


async def test_no_server_is_asked_for_more_than_its_cap_and_those_who_wait_are_served(servers: Servers) -> None:
    a, b = servers
    for server in servers:
        server.script(times=None, pieces=("x",), hold_after=0)
    async with pool_of(a, b, concurrency=2) as pool:
        turns = [asyncio.create_task(pool.ask(f"{number}")) for number in range(10)]
        await a.wait_requests(2)
        await b.wait_requests(2)
        assert pool.pool.waiting == 6
        turns[-1].cancel()
        await asyncio.wait([turns[-1]])
        assert pool.pool.waiting == 5
        assert (len(a.requests), len(b.requests)) == (2, 2)
        for server in servers:
            server.clear_scripts()
            server.release()
        await asyncio.gather(*turns[:-1])
        assert len(a.requests) + len(b.requests) == 9
        assert [status.outstanding for status in pool.pool.statuses] == [0, 0]


async def test_who_waits_for_a_server_that_dies_is_told(servers: Servers) -> None:
    a, b = servers
    b.model = "other"
    b.script(times=None, pieces=("x",), hold_after=0)
    async with pool_of(a, b, concurrency=1) as pool:
        running = asyncio.create_task(pool.ask(model="other"))
        await b.wait_requests(1)
        waiting = asyncio.create_task(pool.ask(model="other"))
        await asyncio.sleep(0)
        await b.stop()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert all(isinstance(result, LlmError) for result in results)
        assert pool.pool.waiting == 0


async def test_a_request_with_tools_goes_to_a_server_that_takes_them() -> None:
    async with ModelServer() as a, ModelServer() as b:
        a.protocols, b.protocols = ("midm",), ("openai",)
        async with pool_of(a, b, models=("m",)) as pool:
            assert pool.pool.name == "mixed"
            tool = {"type": "function", "function": {"name": "f"}}
            session = pool.session_at("a")
            assert await pool.ask(session, model="m") == "a"
            assert await pool.ask(session, model="m", tools=[tool]) == "b"


async def test_while_the_server_that_takes_tools_fails_no_other_is_asked_to() -> None:
    async with ModelServer() as a, ModelServer() as b:
        a.protocols, b.protocols = ("midm",), ("openai",)
        async with pool_of(a, b, models=("m",)) as pool:
            b.script(times=None, status=503)
            tool = {"type": "function", "function": {"name": "f"}}
            with pytest.raises(LlmUnavailable) as failed:
                await pool.ask(pool.session_at("a"), model="m", tools=[tool])
            assert failed.value.status == 503
            assert a.requests == []


async def test_each_server_gets_its_own_key_and_no_other() -> None:
    async with ModelServer() as a, ModelServer() as b:
        b.api_key = "key-of-b"
        options = [
            ServerOptions(name="a", llm=LlmOptions(server_url=a.url, api_key="key-of-a")),
            ServerOptions(name="b", llm=LlmOptions(server_url=b.url, api_key="key-of-b")),
        ]
        pool = ServerPool(
            [PooledServer(one, create_provider("openai", one.llm, EmbeddedOptions()), 60.0) for one in options],
            LlmOptions(),
        )
        await pool.health()
        for number in range(8):
            sink = TextSink(lambda _: None)
            await pool.stream((ChatMessage("user", "hi"),), Parameters(), sink, route=Route(f"{number}"))
        assert {request.headers["authorization"] for request in a.requests} == {"Bearer key-of-a"}
        assert {request.headers["authorization"] for request in b.requests} == {"Bearer key-of-b"}
        await pool.close()
