"""The stages in which the service goes down, while the listener still answers."""

import asyncio

import structlog

from chatbot.api.services import Services


async def drain(services: Services) -> None:
    """Take no new replies, let the running ones end, then send the readers away: they come back after a moment."""
    logger, server = structlog.get_logger("run"), services.settings.server
    services.readiness.state = "draining"
    logger.info("drain.not_ready", pause_s=server.drain_pause_s)
    await asyncio.sleep(server.drain_pause_s)
    logger.info("drain.replies", running=services.supervisor.count_replies(), grace_s=server.drain_grace_s)
    await services.supervisor.drain(server.drain_grace_s)
    logger.info("drain.feeds", open=services.feeds.count)
    services.feeds.close()
