"""A reader of a feed whose log has less than this process knows of."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import structlog

from chatbot.api.services import Services
from chatbot.api.streaming.feed_writer import FeedWriter
from chatbot.api.streaming.flush_scheduler import FlushScheduler
from chatbot.api.streaming.response_stream import ResponseStream
from chatbot.sessions.feeds.channels import ChannelRegistry
from events.catalogue import SessionCreated
from events.record import RecordedEvent
from projections.folds.session import evolve
from tests.support.log.memory_log import MemoryLog


class CountingLog(MemoryLog):
    asked = 0

    async def read(self, *asked: Any, **how: Any) -> list[RecordedEvent]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().read(*asked, **how)


async def test_a_reader_whose_log_has_lost_what_was_told_of_is_cut_off_and_asks_no_more() -> None:
    log, feeds = CountingLog(), ChannelRegistry()
    (created,) = log.record("s", SessionCreated(None, {}, 60))
    services = SimpleNamespace(
        log=log,
        feeds=feeds,
        supervisor=SimpleNamespace(running_reply=lambda _: None),
        settings=SimpleNamespace(stream=SimpleNamespace(retry_ms=1)),
        logger=structlog.get_logger("test"),
    )
    with feeds.open("s") as channel:
        channel.advance_to(5)
        follower = FeedWriter(cast(Services, services), FlushScheduler(), evolve(None, created), channel)
        async with asyncio.timeout(1):
            await follower.write(cast(ResponseStream, None))
    assert log.asked == 1
