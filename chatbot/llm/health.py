"""Knows whether the model server is there, so that a health request costs it nothing."""

import asyncio

from chatbot.llm.protocol import Health, Provider

# While the server is away it is asked more often: a service that starts should not look broken for a whole interval.
AWAY_INTERVAL_S = 1.0


class HealthMonitor:
    """Asks the provider every `interval_s` (seconds) and keeps the newest answer in `newest`."""

    def __init__(self, provider: Provider, interval_s: float) -> None:
        self.newest = Health(available=False, detail="Not asked yet")
        self._provider = provider
        self._interval_s = interval_s

    async def run(self) -> None:
        """Polls for ever. The task is its owner's, who also sees it should it ever end."""
        while True:
            await self.refresh()
            away_s = min(self._interval_s, AWAY_INTERVAL_S)
            await asyncio.sleep(self._interval_s if self.newest.available else away_s)

    async def refresh(self) -> None:
        """Asks now."""
        self.newest = await self._provider.health()
