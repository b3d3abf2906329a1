"""Rolling upgrades: no event type is written before every process over the same log can read it.

Each process says which types and schema versions it reads (`NodeVersion`). Who is about to append a type that processes
of version 0.4 do not know asks for what the others read, and is refused while one of them would not understand it.
Processes of 0.4 say nothing of themselves, so all of them must be gone before a type that is new since then is written.

A type in `codec.IGNORABLE` needs none of that: its events say in their metadata that a program which does not know the
type may pass over them.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from events import catalogue, codec
from events.catalogue import Event
from events.codec import event_type, schema_version_of
from events.errors import NodesOutdated

# What 0.4 reads. Never changed: later types and schema versions are compared with it.
BASELINE: Mapping[str, int] = {
    "session_created": 2,
    "metadata_changed": 1,
    "session_accessed": 1,
    "session_expired": 1,
    "session_deleted": 1,
    "message_posted": 1,
    "reply_requested": 1,
    "reply_started": 1,
    "reply_progressed": 1,
    "reply_completed": 1,
    "reply_failed": 1,
    "reply_cancelled": 1,
    "reply_interrupted": 1,
    "branch_selected": 1,
    "history_adopted": 1,
    "message_copied": 1,
    "content_erased": 1,
}

ADMITTED_S = 30.0  # for which an answer counts: an older process may join at any time


class NodeVersion(Struct, frozen=True):
    """What one process reads: the newest schema version of each type. `name` and `program` (a
    version) are for operators.
    """

    name: str
    program: str
    types: dict[str, int]


class OtherNodes(Protocol):
    """Who knows the processes over the same log."""

    async def versions(self) -> Sequence[NodeVersion] | None:
        """Of all that read the log now, this one too; None where that is not known. Raises LogUnavailable."""
        ...


class GateObserver(Protocol):
    """Part of events.storage.group_commit.LogObserver."""

    def refused(self, reason: str) -> None: ...

    def warned(self, subject: str, reason: str) -> None: ...


def own_version(name: str, program: str) -> NodeVersion:
    """What this process reads."""
    return NodeVersion(name, program, dict(catalogue.SCHEMA_VERSIONS))


def name_of_process() -> str:
    """What operators know this process by."""
    return f"{os.uname().nodename}, process {os.getpid()}"


def encode_version(version: NodeVersion) -> str:
    return msgspec.json.encode(version).decode()


def decode_version(text: str) -> NodeVersion:
    """Raises ValueError."""
    return msgspec.json.decode(text, type=NodeVersion)


def new_types(events: Iterable[Event]) -> dict[str, int]:
    """Types in `events`, with the schema versions needed, that a process of 0.4 cannot read and may not pass over."""
    wanted: dict[str, int] = {}
    for event in events:
        kind = event_type(event)
        version = schema_version_of(kind, event)
        if version > BASELINE.get(kind, 0) and kind not in codec.IGNORABLE:
            wanted[kind] = version
    return wanted


def find_outdated(nodes: Sequence[NodeVersion] | None, wanted: Mapping[str, int]) -> str | None:
    """Which process must be updated before events of the `wanted` types are written; None: they may be."""
    kinds = ", ".join(sorted(wanted))
    if nodes is None:
        return f"it is not known yet whether all processes over this log can read events of type {kinds}"
    outdated = [
        f"{node.name} (version {node.program})"
        for node in nodes
        if any(node.types.get(kind, 0) < version for kind, version in wanted.items())
    ]
    if not outdated:
        return None
    return f"events of type {kinds} are not written before every node can read them: update {', '.join(outdated)}"


class EventTypeGate:
    """Admits events. `observe` hears of each refusal, and of its reason once while it stays the same."""

    def __init__(self, nodes: OtherNodes, observe: GateObserver, timer: Callable[[], float] = time.monotonic) -> None:
        self._nodes = nodes
        self._observe = observe
        self._timer = timer
        self._admitted_until_s: dict[tuple[str, int], float] = {}  # at most one for each type that this program has
        self._reason: str | None = None

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """Whether events of these types, in these schema versions, would be admitted now. Raises LogUnavailable."""
        wanted = {kind: version for kind, version in versions.items() if version > BASELINE.get(kind, 0)}
        return await self._find_refusal(wanted) is None

    async def admit(self, events: Sequence[Event]) -> None:
        """Raises NodesOutdated, LogUnavailable."""
        reason = await self._find_refusal(new_types(events))
        if reason is None:
            return
        self._observe.refused("outdated")
        if reason != self._reason:
            self._reason = reason
            self._observe.warned("nodes_outdated", reason)
        raise NodesOutdated(reason)

    async def _find_refusal(self, versions: Mapping[str, int]) -> str | None:
        now_s = self._timer()
        wanted = {
            kind: version
            for kind, version in versions.items()
            if self._admitted_until_s.get((kind, version), 0.0) <= now_s
        }
        if not wanted:
            return None
        reason = find_outdated(await self._nodes.versions(), wanted)
        if reason is None:
            self._reason = None
            self._admitted_until_s |= dict.fromkeys(wanted.items(), now_s + ADMITTED_S)
        return reason
