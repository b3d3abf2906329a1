"""A PostgreSQL server of the drill's own: its data in a folder of its own, run by a user that is not root."""

import asyncio
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.drills.environment.drill_processes import ManagedProcess
from tests.drills.environment.network_namespaces import Endpoint, ProgramFailed, call

USER, NAME = "postgres", "chatbot"
READY_TIMEOUT_S = 60.0
SETTINGS = {
    "shared_buffers": "32MB",
    "max_connections": "100",  # of each node until it notices that it was replaced, and of the one that replaces it
    "wal_retrieve_retry_interval": "200ms",  # a standby asks again this soon after its primary was restarted
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}


def programs() -> Path | None:
    """Where PostgreSQL's newest programs are, if it is installed."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda home: int(home.parent.name))
    found = shutil.which("postgres")
    return homes[-1] if homes else Path(found).parent if found else None


class Database:
    """Listens at `where`, after a restart again; `allowed` are the addresses that may connect."""

    def __init__(self, name: str, folder: Path, endpoint: Endpoint, allowed: str) -> None:
        home = programs()
        assert home is not None, "PostgreSQL is not installed"
        self.name, self.address = name, f"{endpoint.address}:{endpoint.port}"
        self._home, self._folder, self._allowed, self._endpoint = home, folder, allowed, endpoint
        self._data = folder / "data"
        self._port = str(endpoint.port)
        # setpriv and ip replace themselves by what they run, so that a signal reaches the server itself
        self._as_user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups") if os.geteuid() == 0 else ()
        settings = SETTINGS | {
            "listen_addresses": endpoint.address,
            "port": self._port,
            "unix_socket_directories": str(folder),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = (*endpoint.command_prefix, *self._as_user, str(home / "postgres"), "-D", str(self._data), *options)
        self.part = ManagedProcess(
            command, folder, folder / "postgres.log", {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        )

    async def create(self) -> None:
        """An empty database in a fresh folder, started."""
        self._make_folder()
        await self._run("initdb", "-D", str(self._data), "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8")
        with (self._data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {self._allowed} trust\nhost replication all {self._allowed} trust\n")
        await self.start()
        await self.ask(f"CREATE DATABASE {NAME}", database="postgres")

    async def follow(self, primary: "Database") -> None:
        """A fresh copy of `primary` in place of what it held, started: a standby that follows it.

        Once promoted it waits for no standby, as it has none yet.
        """
        self._make_folder()
        shutil.rmtree(self._data, ignore_errors=True)
        source = ("-h", primary._endpoint.address, "-p", primary._port, "-U", USER)
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        program = str(self._home / "pg_basebackup")
        await call(*self._endpoint.command_prefix, *self._as_user, program, *source, "-D", str(self._data), *options)
        with (self._data / "postgresql.auto.conf").open("a") as settings:
            settings.write("synchronous_standby_names = ''\n")
        await self.start()

    async def promote(self) -> None:
        """From a standby to a primary that takes writes. Raises AssertionError when it does not become one."""
        promoted = await self.ask("SELECT pg_promote(true, 60)", database="postgres")
        assert promoted.strip() == "t", f"{self.name} was not promoted: {self.part.log.read_text()[-2000:]}"

    async def start(self) -> None:
        """Started, and answering: after a crash it first recovers."""
        await self.part.start()
        until_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            with suppress(ProgramFailed):
                await self.ask("SELECT 1", database="postgres")
                return
            assert time.monotonic() < until_s, f"PostgreSQL does not come up: {self.part.log.read_text()[-2000:]}"
            assert self.part.pid is not None, f"PostgreSQL ended: {self.part.log.read_text()[-2000:]}"
            await asyncio.sleep(0.1)

    async def ask(self, sql: str, database: str = NAME) -> str:
        """The answer to one statement, through the socket in its folder, which no cut reaches. Raises Refused."""
        options = ("-h", str(self._folder), "-p", self._port, "-U", USER, "-d", database, "-v", "ON_ERROR_STOP=1")
        return await self._run("psql", *options, "-XAtc", sql)

    async def stop(self) -> None:
        """As `pg_ctl stop -m fast` does: connections are ended, then it ends."""
        await self.part.stop(signal.SIGINT)

    def _make_folder(self) -> None:
        self._folder.mkdir(exist_ok=True)
        if self._as_user:
            shutil.chown(self._folder, USER, USER)

    async def _run(self, program: str, *arguments: str) -> str:
        return await call(*self._as_user, str(self._home / program), *arguments)
