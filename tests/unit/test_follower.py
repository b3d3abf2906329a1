"""A reader of a feed whose log has less than this process knows of."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import structlog

from chatbot.api.event_stream import EventStream
from chatbot.api.follower import Follower
from chatbot.api.pouring import Pourer
from chatbot.api.services import Services
from chatbot.sessions.feeds import Feeds
from events.catalogue import SessionCreated
from events.record import RecordedEvent
from projections.session import evolve
from tests.support.memory_log import MemoryLog


class CountingLog(MemoryLog):
    asked = 0

    async def read(self, *asked: Any, **how: Any) -> list[RecordedEvent]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().read(*asked, **how)


async def test_a_reader_whose_log_has_lost_what_was_told_of_is_cut_off_and_asks_no_more() -> None:
    log, feeds = CountingLog(), Feeds()
    (created,) = log.record("s", SessionCreated(None, {}, 60))
    services = SimpleNamespace(
        log=log,
        feeds=feeds,
        pourer=Pourer(),
        supervisor=SimpleNamespace(running_reply=lambda _: None),
        settings=SimpleNamespace(stream=SimpleNamespace(retry_ms=1)),
        logger=structlog.get_logger("test"),
    )
    with feeds.open("s") as channel:
        channel.reach(5)
        follower = Follower(cast(Services, services), evolve(None, created), channel)
        async with asyncio.timeout(1):
            await follower.write(cast(EventStream, None))
    assert log.asked == 1
