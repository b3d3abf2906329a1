"""Rolling upgrades: an event type is written only once every process over the same log can read it.

Each process announces the types and schema versions that it reads (`NodeVersion`). Before a type is appended that
version 0.4 does not know, `EventTypeGate` compares it with the announcements, and refuses it while a process cannot
read it. Processes of 0.4 announce nothing, so all of them must be stopped before newer types are written.

Types in `codec.IGNORABLE` are exempt: the metadata of their events allows programs that do not know the type to ignore
them.
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

ADMITTED_S = 30.0  # how long a positive result is used: an older process may start at any time


class NodeVersion(Struct, frozen=True):
    """What one process can read: the newest schema version of each type. `name`, and `program` (the program's version),
    are for operators.
    """

    name: str
    program: str
    types: dict[str, int]


class Content(Protocol):
    """Part of events.storage.append_batch.EncodedEvent."""

    @property
    def type(self) -> str: ...

    @property
    def schema_version(self) -> int: ...


class OtherNodes(Protocol):
    """Knows which processes use the same log."""

    async def versions(self) -> Sequence[NodeVersion] | None:
        """Those of all processes that read the log now, this one included; None: unknown. Raises LogUnavailable."""
        ...


class GateObserver(Protocol):
    """Part of events.storage.group_commit.LogObserver."""

    def refused(self, reason: str) -> None: ...

    def warned(self, subject: str, reason: str) -> None: ...


def own_version(name: str, program: str) -> NodeVersion:
    """What this process reads."""
    return NodeVersion(name, program, dict(catalogue.SCHEMA_VERSIONS))


def name_of_process() -> str:
    """The name of this process for operators: host name and process id."""
    return f"{os.uname().nodename}, process {os.getpid()}"


def encode_version(version: NodeVersion) -> str:
    return msgspec.json.encode(version).decode()


def decode_version(text: str) -> NodeVersion:
    """Raises ValueError."""
    return msgspec.json.decode(text, type=NodeVersion)


def new_types(events: Iterable[Event]) -> dict[str, int]:
    """Types in `events`, with their schema versions, that a process of 0.4 can neither read nor ignore."""
    wanted: dict[str, int] = {}
    for event in events:
        kind = event_type(event)
        version = schema_version_of(kind, event)
        if version > BASELINE.get(kind, 0) and kind not in codec.IGNORABLE:
            wanted[kind] = version
    return wanted


def has_new_types(contents: Iterable[Content]) -> bool:
    """Whether some of `contents`, encoded events, are of types as in `new_types`, or may be ignored: quick, for each
    append.
    """
    return bool([one for one in contents if one.schema_version > BASELINE.get(one.type, 0)])  # quicker than `any`


def find_outdated(nodes: Sequence[NodeVersion] | None, wanted: Mapping[str, int]) -> str | None:
    """Why events of the `wanted` types must not be written yet: which process must be updated first. None: they may."""
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
    """Admits or refuses events. `observe` is told each refusal, but its reason only when that changes."""

    def __init__(self, nodes: OtherNodes, observe: GateObserver, timer: Callable[[], float] = time.monotonic) -> None:
        self._nodes = nodes
        self._observe = observe
        self._timer = timer
        self._admitted_until_s: dict[tuple[str, int], float] = {}  # at most one for each type that this program has
        self._last_admitted: Mapping[str, int] = BASELINE  # what `admits` was last asked and admitted: each reply asks
        self._last_until_s = 0.0
        self._reason: str | None = None

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """Whether events of these types, in these schema versions, would be admitted now. Raises LogUnavailable."""
        if versions is self._last_admitted and self._timer() < self._last_until_s:
            return True
        wanted = {kind: version for kind, version in versions.items() if version > BASELINE.get(kind, 0)}
        is_admitted = await self._find_refusal(wanted) is None
        if is_admitted:
            until_s = [self._admitted_until_s[kind, version] for kind, version in wanted.items()]
            self._last_admitted, self._last_until_s = versions, min(until_s, default=0.0)
        return is_admitted

    async def admit(self, events: Sequence[Event]) -> None:
        """Return if all of `events` may be written. Raises NodesOutdated, LogUnavailable."""
        wanted = new_types(events)
        if not wanted:
            return
        reason = await self._find_refusal(wanted)
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
