"""A real PostgreSQL server in a folder of its own, that can be killed and started again. It syncs to the disk."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.support.command_processes import children_of
from tests.support.log.log_files import small_disk
from tests.support.programs.external_programs import free_port

START_TIMEOUT_S = 30.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "fsync": "on",
    "autovacuum": "off",  # a test decides when
    "log_line_prefix": "%m ",
}


def binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: int(one.parts[-3]))
    return installed[-1].parent if installed else None


class PostgresServer:
    """Runs in `folder`, as a user who is not root: a server refuses to be."""

    def __init__(self, folder: Path, programs: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.folder = folder
        self.log = folder / "server.log"
        self._programs = programs
        self._data = folder / "data"
        self._settings = SETTINGS | settings
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(folder, self._user, self._user)

    @property
    def pid(self) -> int:
        """Of the running server, whose other processes are its children."""
        assert self._process is not None
        return self._process.pid

    def make(self) -> None:
        """An empty cluster."""
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")

    def make_standby(self, primary: "PostgresServer") -> None:
        """A copy of `primary` that follows it, and takes no writes."""
        source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
        self._run("pg_basebackup", *source, "-D", str(self._data), "--write-recovery-conf", "--checkpoint=fast")

    def start(self) -> None:
        """Started, and open for connections. Raises AssertionError with the server's complaint."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with self.log.open("ab") as log:
            while time.monotonic() < deadline_s:
                self._process = subprocess.Popen(
                    [self._programs / "postgres", "-D", self._data, "-p", str(self.port), *options],
                    stdout=log,
                    stderr=log,
                    cwd=self._data.parent,
                    user=self._user,
                    group=self._user,
                )
                while self._process.poll() is None and time.monotonic() < deadline_s:
                    if self._ready():
                        return
                    time.sleep(0.02)
                time.sleep(0.05)  # those whom a killed server has left are still going
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        """SIGKILL for the server and all its processes, as a power cut has it."""
        process = self._process
        if process is not None:
            for pid in (process.pid, *children_of(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        """Fast shutdown: clients are disconnected, what was committed is on disk."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=START_TIMEOUT_S)

    async def schema(self) -> str:
        """The URL of a new, empty schema."""
        name = f"t{uuid.uuid4().hex[:12]}"
        await self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}?search_path={name}"

    async def execute(self, *statements: str, url: str | None = None) -> None:
        connection = await asyncpg.connect(url or self.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @contextmanager
    def small_disk(self, kib: int) -> Iterator[str]:
        """The name of a tablespace on a disk of its own; skips the test where mounting one is not permitted."""
        with small_disk(self.folder / "small", kib) as disk:
            if self._user is not None:
                os.chown(disk, self._user, self._user)
            asyncio.run(self.execute(f"CREATE TABLESPACE small LOCATION '{disk}'"))
            yield "small"

    def _ready(self) -> bool:
        """As the server itself notes in its folder."""
        process, lines = self._process, list[str]()
        with contextlib.suppress(FileNotFoundError):  # also where one that was killed has left it, and it is removed
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        if process is None or len(lines) != 8:
            return False
        return lines[0] == str(process.pid) and lines[7].strip() in ("ready", "standby")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._data.parent,
            user=self._user,
            group=self._user,
        )
        assert done.returncode == 0, done.stderr


def server_user() -> int | None:
    """Who runs the server in place of root; in the group of the same number."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return pwd.getpwnam("nobody").pw_uid


@contextmanager
def postgres_server(*, primary: PostgresServer | None = None, **settings: str) -> Iterator[PostgresServer]:
    """A running server, a standby where there is a `primary`; skips the test where none is installed."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server here")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = PostgresServer(folder, programs, **settings)
        if primary is None:
            server.make()
        else:
            server.make_standby(primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
