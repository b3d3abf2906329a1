"""Processes of a drill: each in a session of its own, so that Ctrl-C reaches the drill alone, which then ends them."""

import asyncio
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.drills.environment.network_namespaces import call

END_TIMEOUT_S = 60.0


class ManagedProcess:
    """One program that can be started, killed, frozen and asked to end, again and again. Its output goes to a file."""

    def __init__(self, command: tuple[str, ...], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._command = command
        self._folder = folder
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """While it runs, frozen or not."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        assert self.pid is None, f"{self._command} runs already"
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """To it and all that it has started. An ended one hears nothing."""
        for pid in [self.pid, *self.children()]:
            if pid is not None:
                signal_process(pid, number)

    async def kill(self) -> None:
        """kill -9, at this very instant."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def kill_alone(self) -> None:
        """kill -9 without what it has started."""
        if self.pid is not None:
            signal_process(self.pid, signal.SIGKILL)
        await self.ended()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code, once it has ended by itself. Raises TimeoutError."""
        if self.pid is not None:
            signal_process(self.pid, number)
        return await self.ended()

    async def once(self, *arguments: str) -> str:
        """What its program writes with these arguments, beside it or alone. Raises Refused, TimeoutError."""
        return await call(*self._command, *arguments, environment=self._environment)

    async def ended(self) -> int:
        if self._process is None:
            return 0
        async with asyncio.timeout(END_TIMEOUT_S):
            return await self._process.wait()

    def children(self) -> list[int]:
        """The processes that it has started and that have not ended, oldest first."""
        if self.pid is None:
            return []
        with suppress(OSError):
            return [int(one) for one in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []


def signal_process(pid: int, number: signal.Signals) -> None:
    """An ended process hears nothing."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


async def wait_until_gone(pids: Iterable[int]) -> None:
    """Until none of these processes runs. Raises TimeoutError."""
    async with asyncio.timeout(END_TIMEOUT_S):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await asyncio.sleep(0.02)
