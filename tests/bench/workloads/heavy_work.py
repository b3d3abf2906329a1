"""The big work that goes on beside chat. Each kind is begun again and again until it is cancelled."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.bench.clients.raw_clients import Caller
from tests.bench.clients.reader_crowd import Service
from tests.bench.harness.bench_processes import ROOT

READERS = 4  # of each export
BIG_TURNS, BIG_CHARS = 400, 5_000  # of the conversation that is exported: about two megabytes
PAGE = 10_000  # events of the log in one answer
OVER_MAX_S = 300.0  # that a rebuild may go on after its part: the next one is to be alone
EXPIRED = 'chatbot_sessions{status="expired"}'

CLIENT = Path(__file__).resolve().parents[1] / "clients" / "large_answer_reader.py"


class Work:
    """One kind. `taken` tells how much was done since it was last asked, in the kind's own unit."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._done = 0.0

    async def prepare(self, service: Service, folder: Path) -> None:
        """Once, before anything is measured."""

    async def run(self, service: Service, folder: Path) -> None:
        """Until cancelled."""
        raise NotImplementedError

    async def over(self, service: Service) -> None:
        """Return once the service has nothing to do with it any more."""
        await asyncio.sleep(1)

    def taken(self) -> float:
        done, self._done = self._done, 0.0
        return done


class Exports(Work):
    """Readers of a long conversation, and of the whole log as lines of JSON. Done: answers."""

    name = "export"

    async def prepare(self, service: Service, folder: Path) -> None:
        (self._big,) = await service.sessions(1)
        for _ in range(BIG_TURNS):
            await service.chat(self._big, "x" * BIG_CHARS)

    async def run(self, service: Service, folder: Path) -> None:
        paths = [f"/api/sessions/{self._big}/export", f"/api/events?limit={PAGE}"]
        await asyncio.gather(*(self._read(service.url + path) for path in paths * (READERS // 2)))

    async def _read(self, url: str) -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, str(CLIENT), url, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            while await process.stdout.readline():
                self._done += 1
        finally:
            await _end(process)


class Verify(Work):
    """A walk along the whole chain. Done: walks."""

    name = "verify"

    async def run(self, service: Service, folder: Path) -> None:
        caller = await Caller.open(service.url)
        try:
            while True:
                await caller.ask("GET", "/api/audit/verify")
                self._done += 1
        finally:
            caller.close()


class Command(Work):
    """A command of run.py, in a process of its own. Done: runs."""

    arguments: ClassVar[tuple[str, ...]]

    async def run(self, service: Service, folder: Path) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(ROOT / "run.py"), *self.arguments,
                env={"DATABASE_URL": str(folder / "chatbot.db"), "CHATBOT_LOGGING_LEVEL": "error"}, cwd=folder,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                preexec_fn=_anywhere,
            )  # fmt: skip
            try:
                if not await process.wait():
                    self._done += 1
            finally:
                await _end(process)


class RebuildCommand(Command):
    name = "run.py rebuild"
    arguments = ("rebuild",)


class ExportCommand(Command):
    name = "run.py export"
    arguments = ("export",)


class RebuildInService(Work):
    """The projections' file is deleted under the service, which makes it anew. Done: rebuilds begun."""

    name = "rebuild"

    async def run(self, service: Service, folder: Path) -> None:
        while True:
            (folder / "projections.db").unlink(missing_ok=True)
            self._done += 1
            await asyncio.sleep(3600)

    async def over(self, service: Service) -> None:
        await service.settled("chatbot_projection_lag_events", 100, OVER_MAX_S)
        await asyncio.sleep(1)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    await process.wait()


def _anywhere() -> None:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


EVERY_WORK: dict[str, Callable[[], Work]] = {
    "export": Exports,
    "exporting": ExportCommand,
    "rebuilding": RebuildCommand,
    "rebuild": RebuildInService,
    "verify": Verify,
}
