"""Graceful shutdown in stages, while the listener still answers: drain replies, then send the readers away."""

import asyncio
import time
from contextlib import suppress

import structlog
from aiohttp import web

from chatbot.api.services import Services

KEEPALIVE_LINGER_S = 1.0  # that a keep-alive connection may be silent before it is closed
POLL_S = 0.05  # between checks of what is still open


async def drain(services: Services) -> None:
    """Accept no new replies, let the running ones end, then end the feeds, whose readers reconnect."""
    logger, server = structlog.get_logger("run"), services.settings.server
    services.readiness.state = "draining"
    logger.info("drain.not_ready", pause_s=server.drain_pause_s)
    await asyncio.sleep(server.drain_pause_s)
    logger.info("drain.replies", running=services.supervisor.count_replies(), grace_s=server.drain_grace_s)
    await services.supervisor.drain(server.drain_grace_s)
    await services.cluster.leave()
    logger.info("drain.feeds", open=services.feeds.count)
    services.feeds.close()


async def hand_over(services: Services, listener: web.AppRunner, stop: asyncio.Event) -> None:
    """Hand the port over to another process: accept no more connections, end the feeds, let all else end by itself.

    Keep-alive connections are served until there was no request for KEEPALIVE_LINGER_S: each answer closes its
    connection. What has not ended after `reload_grace_s`, or when `stop` is set, is drained as in a shutdown.
    """
    logger, server = structlog.get_logger("run"), services.settings.server
    services.readiness.state, services.readiness.retiring = "draining", True
    for site in list(listener.sites):
        await site.stop()
    logger.info("retire.feeds", open=services.feeds.count)
    services.feeds.close()
    logger.info("retire.replies", running=services.supervisor.count_replies(), grace_s=server.reload_grace_s)
    deadline_s, busy_s = time.monotonic() + server.reload_grace_s, time.monotonic()
    while (now_s := time.monotonic()) < min(deadline_s, busy_s + KEEPALIVE_LINGER_S):
        if services.readiness.open_requests or services.supervisor.count_replies():
            busy_s = now_s
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await stop.wait()
                break
    await services.supervisor.drain(server.drain_grace_s if stop.is_set() else 0.0)
    await services.cluster.leave()
