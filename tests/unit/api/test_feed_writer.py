"""A reader of a feed whose log has less than this process knows of."""

import asyncio
from typing import Any, cast

import structlog

from chatbot.api.streaming.feed_writer import FeedSources, FeedWriter
from chatbot.api.streaming.response_stream import FlushScheduler, ResponseStream
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


async def unused(*_: object) -> Any:
    raise NotImplementedError


async def test_a_reader_whose_log_has_lost_what_was_told_of_is_cut_off_and_asks_no_more() -> None:
    log, feeds = CountingLog(), ChannelRegistry()
    (created,) = log.record("s", SessionCreated(None, {}, 60))
    sources = FeedSources(
        log=log,
        feeds=feeds,
        running_reply=lambda _: None,
        with_metadata=unused,
        reply_created_at=unused,
        flush_scheduler=FlushScheduler(),
        retry_ms=1,
        logger=structlog.get_logger("test"),
    )
    with feeds.open("s") as channel:
        channel.advance_to(5)
        follower = FeedWriter(sources, evolve(None, created), channel)
        async with asyncio.timeout(1):
            await follower.write(cast(ResponseStream, None))
    assert log.asked == 1
