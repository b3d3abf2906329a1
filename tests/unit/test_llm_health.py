"""The health monitor keeps the newest answer."""

import asyncio

from chatbot.llm.health import HealthMonitor
from chatbot.llm.protocol import ChatMessage, Finish, Health, Hear
from events.catalogue import Parameters


class Told:
    """A provider whose health is what the test says."""

    name = "told"
    model = "m"
    models = frozenset({model})

    def __init__(self, *, available: bool) -> None:
        self.available = available
        self.asked = 0

    async def health(self) -> Health:
        self.asked += 1
        return Health(available=self.available, detail="" if self.available else "away")

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool = False
    ) -> Finish:
        raise NotImplementedError

    async def close(self) -> None: ...


async def test_before_the_first_answer_nothing_is_claimed() -> None:
    assert HealthMonitor(Told(available=True), 10).newest.available is False


async def test_it_asks_at_once_and_then_every_interval() -> None:
    provider = Told(available=True)
    monitor = HealthMonitor(provider, 0.05)
    polling = asyncio.create_task(monitor.run())
    await asyncio.sleep(0.01)
    assert (monitor.newest, provider.asked) == (Health(available=True), 1)
    provider.available = False
    await asyncio.sleep(0.1)
    assert monitor.newest == Health(available=False, detail="away")
    polling.cancel()


async def test_a_server_that_is_away_is_asked_more_often() -> None:
    provider = Told(available=False)
    monitor = HealthMonitor(provider, 60)
    polling = asyncio.create_task(monitor.run())
    await asyncio.sleep(0)
    provider.available = True
    await asyncio.sleep(1.2)
    assert monitor.newest.available is True
    polling.cancel()


async def test_it_can_be_asked_to_look_now() -> None:
    monitor = HealthMonitor(Told(available=True), 60)
    await monitor.refresh()
    assert monitor.newest == Health(available=True)


async def test_a_question_that_fails_in_an_unforeseen_way_is_an_answer_and_asked_again() -> None:
    provider = Told(available=True)
    monitor = HealthMonitor(provider, 10)

    async def fail() -> Health:
        raise RecursionError

    provider.health = fail  # type: ignore[method-assign]  # a fault of ours
    await monitor.refresh()
    assert monitor.newest == Health(available=False, detail="The question failed: RecursionError")
    del provider.health
    await monitor.refresh()
    assert monitor.newest.available
