"""How far a projection has folded which log, and whether a log is still that one."""

from msgspec import Struct

from events.log import EventLog


class Checkpoint(Struct, frozen=True):
    """`position` is the last folded one (0: none), `digest` the log's digest there, `identity` that at position 1."""

    position: int = 0
    digest: bytes = b""
    identity: bytes = b""


async def digest_at(log: EventLog, position: int) -> bytes | None:
    """The log's digest at `position`; None when it has no such position."""
    head = log.head()
    if head.position == position:
        return head.digest
    rows = await log.rows(after=position - 1, limit=1)
    return rows[0].digest if rows and rows[0].position == position else None


async def checkpoint_at(log: EventLog, position: int, identity: bytes = b"") -> Checkpoint:
    """The checkpoint of a projection that has folded `log` up to `position`; `identity` spares a look if known."""
    identity = identity or await digest_at(log, 1) or b""
    return Checkpoint(position, await digest_at(log, position) or b"", identity)


async def find_mismatch(checkpoint: Checkpoint, log: EventLog) -> str | None:
    """Why `checkpoint` is not of `log`, as a clause; None when it is.

    The digest at the checkpoint vouches for everything before it, because digests chain.
    """
    if checkpoint.position == 0:
        return None
    if await digest_at(log, 1) != checkpoint.identity:
        return "it was made from another log"
    if checkpoint.position > log.head().position:
        return f"its checkpoint {checkpoint.position} is beyond the log's end"
    if await digest_at(log, checkpoint.position) != checkpoint.digest:
        return f"the log's event at its checkpoint {checkpoint.position} is not the one it folded"
    return None
