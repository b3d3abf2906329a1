"""The options of an event log: a limit for everything that queues, waits or grows, and the group-commit delay."""

from msgspec import Struct

# SQLite binds at most 32,766 values in one statement and an event has 11 columns.
APPEND_BATCH_LIMIT = 2048


class LogOptions(Struct, frozen=True, kw_only=True):
    """How a log behaves. Durations are seconds."""

    busy_timeout_s: float = 5.0  # how long to wait for a lock, or a server that restarts, before an append is refused
    append_queue_max: int = 10_000  # appends that may wait; the next one is refused with LogBusy
    append_queue_bytes: int = 64 * 1024 * 1024  # content that may wait: bounds memory, whatever the size of an append
    append_batch_max: int = 512  # events in one transaction: a bigger batch is hardly faster
    commit_delay_s: float = 0.004  # how long a commit waits for as many appends as the last two had
    cache_kib: int = 8 * 1024  # page cache of each connection
    wal_limit_bytes: int = 64 * 1024 * 1024  # of the write-ahead log: beyond it appends wait until it is checkpointed
    read_connections: int = 2  # for reading, besides the writer's
    erase_wait_s: float = 5.0  # how long an erasure waits for readers to release the old pages, or for VACUUM

    def __post_init__(self) -> None:
        if not 1 <= self.append_batch_max <= APPEND_BATCH_LIMIT:
            raise ValueError(f"append_batch_max must be between 1 and {APPEND_BATCH_LIMIT}")
        if min(self.append_queue_max, self.append_queue_bytes, self.read_connections) < 1:
            raise ValueError("append_queue_max, append_queue_bytes and read_connections must be at least 1")
