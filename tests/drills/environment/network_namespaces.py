"""A small private network: a namespace for each part, joined by a bridge; any two of them can be cut from each other.

Who is cut sends its packets to a hardware address that nobody has: they vanish without a word, as on a broken switch.
No firewall is needed, only iproute2 and root. The addresses are of 198.18.0.0/15, which is kept for such tests.

Where a part of a drill runs: its address, and its namespace, if it has one.
"""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from msgspec import Struct

UNREACHABLE_MAC = "02:00:00:00:00:dd"
HUB = "hub"  # this machine's own end of the bridge: clients, proxy and model server


class ProgramFailed(Exception):
    """A command failed; what it said."""


async def call(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """What a short command writes. Raises Refused, or TimeoutError after 60 s."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode:
        raise ProgramFailed(f"{' '.join(command)}: {output.decode().strip()}")
    return output.decode()


class Network:
    """`names` get namespaces and addresses; HUB has the bridge's. Names of links and namespaces begin with `tag`."""

    def __init__(self, tag: str, names: list[str], subnet: int) -> None:
        self._tag = tag
        self._addresses = {HUB: f"198.18.{subnet}.1"}
        self._addresses |= {name: f"198.18.{subnet}.{place}" for place, name in enumerate(names, start=11)}
        self.mask = f"198.18.{subnet}.0/24"
        self._cuts: Counter[tuple[str, str]] = Counter()  # ways that are cut, and how often

    def address(self, name: str) -> str:
        return self._addresses[name]

    def command_prefix(self, name: str) -> tuple[str, ...]:
        """What to put before a command that is to run there."""
        return ("ip", "netns", "exec", self._namespace(name))

    async def build(self) -> None:
        await call("ip", "link", "add", self._tag, "type", "bridge")
        await call("ip", "addr", "add", f"{self.address(HUB)}/24", "dev", self._tag)
        await call("ip", "link", "set", self._tag, "up")
        for name in self._parts():
            space, link = self._namespace(name), self._link(name)
            await call("ip", "netns", "add", space)
            await call("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            await call("ip", "link", "set", link, "master", self._tag, "up")
            await call("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                await call("ip", "-n", space, "link", "set", device, "up")

    async def remove(self) -> None:
        """All of it, as far as it is there. What runs inside must have ended."""
        for name in self._parts():
            with suppress(ProgramFailed):
                await call("ip", "link", "del", self._link(name))
            with suppress(ProgramFailed):
                await call("ip", "netns", "del", self._namespace(name))
        with suppress(ProgramFailed):
            await call("ip", "link", "del", self._tag)

    async def cut(self, one: str, others: list[str]) -> None:
        """No packet passes between `one` and any of `others`, in either direction."""
        for here, there in self._ways(one, others):
            self._cuts[here, there] += 1
            change = ("neigh", "replace", self.address(there), "lladdr", UNREACHABLE_MAC, "nud", "permanent")
            await self._at(here, *change)

    async def join(self, one: str, others: list[str]) -> None:
        """Undo a cut. What another cut has parted, too, stays parted."""
        for here, there in self._ways(one, others):
            self._cuts[here, there] -= 1
            if self._cuts[here, there] > 0:
                continue
            with suppress(ProgramFailed):  # nothing is forgotten where nothing was cut
                await self._at(here, "neigh", "del", self.address(there))

    def _ways(self, one: str, others: list[str]) -> list[tuple[str, str]]:
        return [way for other in others if other != one for way in ((one, other), (other, one))]

    async def _at(self, name: str, *change: str) -> None:
        if name == HUB:
            await call("ip", *change, "dev", self._tag)
        else:
            await call("ip", "-n", self._namespace(name), *change, "dev", "eth0")

    def _parts(self) -> list[str]:
        return [name for name in self._addresses if name != HUB]

    def _namespace(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _link(self, name: str) -> str:
        return f"{self._tag}{self._parts().index(name)}"


async def why_no_network() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    trial = Network(f"dt{os.getpid() % 10**6}", ["a"], 250)
    try:
        await trial.build()
    except ProgramFailed as refused:
        return f"network namespaces are refused: {refused}"
    finally:
        await trial.remove()
    return None


@asynccontextmanager
async def network(names: list[str]) -> AsyncIterator[Network]:
    """Built, and gone afterwards; several at a time get along."""
    built = Network(f"dr{os.getpid() % 10**6}", names, 1 + os.getpid() % 248)
    try:
        await built.build()
        yield built
    finally:
        await asyncio.shield(built.remove())


class Endpoint(Struct, frozen=True):
    """`inside` goes before its command: what leads into its namespace. Other nodes reach a node at `peers_port`."""

    address: str
    port: int
    peers_port: int = 0
    command_prefix: tuple[str, ...] = ()
