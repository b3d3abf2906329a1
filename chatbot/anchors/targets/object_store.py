"""Anchors in a store of named objects: a folder or a bucket. An object is created once and never replaced."""

from typing import Protocol

from chatbot.anchors.anchor_target import (
    ANCHORS_MAX,
    Anchor,
    NewAnchor,
    TargetContradicts,
    TargetUnavailable,
    anchor_name,
    is_anchor_name,
    is_incomplete,
    tree_head_of,
)
from events.integrity.signed_checkpoint import TreeHead

READ_BEFORE_NEWEST_MAX = 100  # incomplete anchors at the end of a store that are passed over


class ObjectStore(Protocol):
    """Each method raises TargetUnavailable."""

    @property
    def name(self) -> str: ...

    async def create(self, name: str, content: bytes) -> bool:
        """Create an object, durably; False if there is one of this name."""
        ...

    async def read(self, name: str) -> bytes | None:
        """At most NOTE_MAX_BYTES of an object; None if there is none."""
        ...

    async def read_many(self, names: list[str]) -> list[bytes | None]:
        """As `read`, of each name."""
        ...

    async def names(self, origin: str) -> list[str]:
        """The names of the anchors of this origin, sorted."""
        ...

    async def origins(self) -> list[str]:
        """As AnchorTarget.origins."""
        ...

    async def close(self) -> None: ...


class StoreTarget:
    """Implements AnchorTarget."""

    signs = False
    proof_size = 0
    cosignature = ""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def name(self) -> str:
        return self._store.name

    async def newest(self, origin: str) -> str | None:
        """As AnchorTarget.newest."""
        names = await self._names(origin)
        for name in reversed(names[-READ_BEFORE_NEWEST_MAX:]):
            text = _decode(await self._store.read(name))
            if text is not None and not is_incomplete(text):
                return text
        return None

    async def write(self, anchor: NewAnchor) -> bool:
        """As AnchorTarget.write."""
        checkpoint = anchor.checkpoint
        name = anchor_name(checkpoint.origin, checkpoint.size)
        if await self._store.create(name, anchor.note.encode()):
            return True
        text = _decode(await self._store.read(name))
        if text is None:
            raise TargetUnavailable(f"{name} exists, but cannot be read")
        if is_incomplete(text):
            raise TargetUnavailable(f"{name} is the rest of an interrupted write: anchor again once the log has grown")
        if tree_head_of(text) != TreeHead(checkpoint.origin, checkpoint.size, checkpoint.root):
            raise TargetContradicts(f"{name} states another tree of {checkpoint.size} events")
        return False

    async def read_all(self, origin: str) -> list[Anchor]:
        """As AnchorTarget.read_all."""
        names = (await self._names(origin))[-ANCHORS_MAX:]
        texts = await self._store.read_many(names)
        return [Anchor(self.name, name, _decode(text) or "") for name, text in zip(names, texts, strict=True)]

    async def origins(self) -> list[str]:
        """As AnchorTarget.origins."""
        return await self._store.origins()

    async def close(self) -> None:
        await self._store.close()

    async def _names(self, origin: str) -> list[str]:
        return [name for name in await self._store.names(origin) if is_anchor_name(name)]


def _decode(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="replace")
