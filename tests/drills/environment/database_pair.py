"""A primary and a standby that has all of its acknowledged commits, and the change of their roles."""

import asyncio
import time
from pathlib import Path

from tests.drills.environment.drill_database import NAME, USER, Database
from tests.drills.environment.network_namespaces import Endpoint

SYNC_TIMEOUT_S = 60.0
_IS_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"


class DatabasePair:
    """`url` names both servers: clients find out which of them takes writes."""

    def __init__(self, folder: Path, endpoints: dict[str, Endpoint], allowed: str) -> None:
        self.servers = [Database(name, folder / name, endpoint, allowed) for name, endpoint in endpoints.items()]
        self.primary, self.standby = self.servers
        self.url = f"postgresql://{USER}@{','.join(server.address for server in self.servers)}/{NAME}"

    async def create(self) -> None:
        """An empty database, and its standby."""
        await self.primary.create()
        await self.add_standby()

    async def add_standby(self) -> None:
        """Let the server that is no primary follow the one that is; from then on each commit waits for it."""
        await self.standby.follow(self.primary)
        await self.primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self.primary.ask("SELECT pg_reload_conf()")
        await self._wait_for(_IS_SYNCHRONOUS, "1")

    async def catch_up(self) -> None:
        """Wait until the standby has all that can be seen on the primary.

        After a crash the primary shows commits that no standby has confirmed. Clients may have read them by then,
        though nobody was told that they are recorded: a promotion before the standby has them would lose them.
        """
        await self._wait_for(_IS_SYNCHRONOUS, "1")
        end = (await self.primary.ask("SELECT pg_current_wal_flush_lsn()")).strip()
        await self._wait_for(f"SELECT flush_lsn >= '{end}' FROM pg_stat_replication", "t")

    async def promote(self) -> None:
        """The standby takes over. The primary must be dead by then, or be cut from everybody until it is killed."""
        await self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    async def kill(self) -> None:
        """Both, whatever they are at."""
        await asyncio.gather(*(server.part.kill() for server in self.servers))

    async def _wait_for(self, question: str, answer: str) -> None:
        until_s = time.monotonic() + SYNC_TIMEOUT_S
        while (await self.primary.ask(question)).strip() != answer:
            assert time.monotonic() < until_s, f"the standby {self.standby.name} does not follow {self.primary.name}"
            await asyncio.sleep(0.05)
