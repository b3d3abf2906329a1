"""Random turns, failures, cancels and health checks over a pool of servers, against what it promises.

Each server is asked for no more than its cap; a reply that has begun is asked of no other server; one fails before its
first text only if each server that may serve it has failed it or is out of service; and nothing is left over.
"""

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    ChatMessage,
    Finish,
    Health,
    LlmError,
    LlmFailed,
    LlmOverloaded,
    LlmTimeout,
    LlmUnavailable,
    Route,
    TextSink,
)
from chatbot.llm.resilient_provider import ResilientProvider
from chatbot.llm.servers.pooled_server import PooledServer, ServerOptions
from chatbot.llm.servers.server_pool import ServerPool
from events.catalogue import Parameters
from tests.support.model.manual_provider import ManualProvider, ProviderCall

MODELS = ("x", "y")
FAULTS = ("unavailable", "cut", "500", "429", "400", "timeout")


def fault(kind: str) -> LlmError:
    match kind:
        case "unavailable":
            return LlmUnavailable()
        case "429":
            return LlmOverloaded(status=429, retryable=True, retry_after_s=5.0)
        case "timeout":
            return LlmTimeout()
        case "cut":
            return LlmFailed("cut")
        case _:
            return LlmFailed(status=int(kind), retryable=kind == "500")


class ModelledProvider(ManualProvider):
    """A server of `models`, whose health and replies the test gives."""

    def __init__(self, models: frozenset[str]) -> None:
        super().__init__()
        self.models = models
        self.lists_models = True
        self.is_up = True

    async def health(self) -> Health:
        return Health(available=self.is_up)


class Turn:
    """A reply that was asked for. `pieces`: its text; `asked`: the servers that it was asked of."""

    def __init__(self, simulation: "Simulation", model: str, session: str) -> None:
        self.model = model
        self.pieces: list[str] = []
        self.asked: list[str] = []
        self.route = Route(session, session[:1])
        parameters = Parameters(model=model, seed=len(simulation.turns))
        messages = (ChatMessage("user", "x"),)
        sink = TextSink(self.pieces.append)
        self.task = asyncio.create_task(simulation.pool.stream(messages, parameters, sink, route=self.route))


class Simulation:
    def __init__(self, tables: list[tuple[frozenset[str], int]]) -> None:
        self.now_s = 100.0
        self.turns: list[Turn] = []
        self.providers = {f"s{number}": ModelledProvider(models) for number, (models, _) in enumerate(tables)}
        options = LlmOptions(retries_max=0)
        self.servers = [
            PooledServer(
                ServerOptions(name=name, llm=options, concurrency=cap),
                ResilientProvider(provider, options, logs_failures=False),
                60.0,
                lambda: self.now_s,
            )
            for (name, provider), (_, cap) in zip(self.providers.items(), tables, strict=True)
        ]
        self.pool = ServerPool(self.servers, options)

    @property
    def open_calls(self) -> list[tuple[str, ProviderCall]]:
        return [(name, call) for name, one in self.providers.items() for call in one.calls if not call.closed]

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    def turn_of(self, call: ProviderCall) -> Turn:
        assert call.parameters.seed is not None
        return self.turns[call.parameters.seed]

    async def step(self, kind: str, number: int, choice: str) -> None:
        if kind == "ask":
            self.turns.append(Turn(self, MODELS[number % 2], f"{number % 5}"))
        elif kind == "time":
            self.now_s += number
        elif kind == "health":
            server = self.servers[number % len(self.servers)]
            provider = self.providers[server.name]
            provider.is_up = not provider.is_up
            await server.poll()
            self.pool._on_change()
        elif kind == "cancel":
            running = [turn for turn in self.turns if not turn.task.done()]
            if running:
                running[number % len(running)].task.cancel()
        elif self.open_calls:
            name, call = self.open_calls[number % len(self.open_calls)]
            turn = self.turn_of(call)
            if kind == "text":
                call.given.put_nowait("text")
            elif kind == "finish":
                call.given.put_nowait("last")
                call.given.put_nowait(Finish("stop", turn.model))
            else:
                call.given.put_nowait(fault(choice))
                had_text, calls_before = bool(turn.pieces), Counter(self.all_calls())
                others = [
                    one.name
                    for one in self.servers
                    if one.offers(turn.model) and one.is_in_service and one.name not in self.failed_in(turn) | {name}
                ]
                await self.settle()
                asked_more = Counter(self.all_calls()) - calls_before
                again = [call for call in asked_more if call == turn_key(turn, self)]
                if had_text or choice == "400":
                    assert turn.task.done()
                    assert not again
                elif turn.task.done() and not turn.task.cancelled():
                    assert not others, "another server could have answered"
        await self.settle()
        self.check()

    def all_calls(self) -> list[int]:
        return [call.parameters.seed or 0 for one in self.providers.values() for call in one.calls]

    def failed_in(self, turn: Turn) -> set[str]:
        """The servers that this reply was asked of before, and which are not answering it now."""
        seed = self.turns.index(turn)
        return {
            name
            for name, one in self.providers.items()
            for call in one.calls
            if call.parameters.seed == seed and call.closed
        }

    def check(self) -> None:
        running = Counter(name for name, _ in self.open_calls)
        for server in self.servers:
            assert server.outstanding == running[server.name]
            assert not server.concurrency or server.outstanding <= server.concurrency
        waiting = [turn for turn in self.turns if not turn.task.done()]
        assert self.pool.waiting == len(waiting) - len(self.open_calls)
        for name, call in self.open_calls:
            assert self.turn_of(call).model in self.providers[name].models


def turn_key(turn: Turn, simulation: Simulation) -> int:
    return simulation.turns.index(turn)


TABLES = st.lists(
    st.tuples(
        st.sampled_from((frozenset("x"), frozenset("y"), frozenset("xy"), frozenset("xy"))),
        st.sampled_from((1, 1, 2, 0)),
    ),
    min_size=2,
    max_size=3,
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("ask",) * 8 + ("fail",) * 4 + ("text",) * 3 + ("finish", "cancel", "cancel", "health", "time")
        ),
        st.integers(0, 20),
        st.sampled_from(FAULTS),
    ),
    min_size=15,
    max_size=40,
)


@settings(max_examples=80)
@given(TABLES, STEPS)
def test_a_pool_keeps_its_promises_whatever_happens(
    tables: list[tuple[frozenset[str], int]], steps: list[tuple[str, int, str]]
) -> None:
    async def run() -> None:
        simulation = Simulation(tables)
        for step in steps:
            await simulation.step(*step)
        while simulation.open_calls:
            for _, call in simulation.open_calls:
                call.given.put_nowait("last")
                call.given.put_nowait(Finish("stop", "x"))
            await simulation.settle()
        async with asyncio.timeout(20):
            results: list[Any] = await asyncio.gather(*(turn.task for turn in simulation.turns), return_exceptions=True)
        assert all(isinstance(one, Finish | LlmError | asyncio.CancelledError) for one in results), results
        assert simulation.pool.waiting == 0
        assert all(server.outstanding == 0 for server in simulation.servers)

    asyncio.run(run())
