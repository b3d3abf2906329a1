"""How far a projection has folded which log, whether a log is still that one, and the loop that folds on."""

from collections.abc import Awaitable, Callable, Sequence

from events.log import EventLog
from events.record import RecordedEvent
from projections.port import Checkpoint

Apply = Callable[[Sequence[RecordedEvent], Checkpoint], Awaitable[object]]


async def digest_at(log: EventLog, position: int) -> bytes | None:
    """The log's digest at `position`; None when it has no such position."""
    head = log.head()
    if head.position == position:
        return head.digest
    rows = await log.rows(after=position - 1, limit=1)
    return rows[0].digest if rows and rows[0].position == position else None


async def checkpoint_at(log: EventLog, position: int, identity: bytes = b"") -> Checkpoint:
    """The checkpoint of a projection that has folded `log` up to `position`; a known `identity` saves a query."""
    identity = identity or await digest_at(log, 1) or b""
    return Checkpoint(position, await digest_at(log, position) or b"", identity)


async def find_mismatch(checkpoint: Checkpoint, log: EventLog) -> str | None:
    """Why `checkpoint` is not of `log`, as a clause; None when it is.

    The digest at the checkpoint covers everything before it, because digests chain.
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


async def fold_log(
    log: EventLog,
    apply: Apply,
    checkpoint: Checkpoint,
    batch_max: int,
    up_to: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """`apply` the events after `checkpoint` batch by batch, at least up to `up_to`, or (None) to the end of the log.

    The end is reached with the first batch that is not full: while clients append, a loop to an empty batch would not
    end. Calls `on_progress` with each position reached, and returns the last one.
    """
    while up_to is None or checkpoint.position < up_to:
        batch = await log.read_all(after=checkpoint.position, limit=batch_max)
        if not batch:
            break
        checkpoint = await checkpoint_at(log, batch[-1].position, checkpoint.identity)
        await apply(batch, checkpoint)
        on_progress(checkpoint.position)
        if up_to is None and len(batch) < batch_max:
            break
    return checkpoint.position
