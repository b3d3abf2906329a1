"""A log as of one moment: rows that are read page by page, and do not change while it is read.

Between two pages of EventLog.rows a session may be deleted: an earlier page then has its texts, and a later one the
event that explains their erasure. From one snapshot come either the texts without that event, or that event without the
texts.
"""

from typing import Protocol

from events.record import Head, StoredRow


class Snapshot(Protocol):
    """Held open by a transaction of its own: while it is, SQLite's write-ahead file cannot shrink, and PostgreSQL keeps
    old versions of rows.
    """

    @property
    def head(self) -> Head:
        """The end of the log at that moment."""
        ...

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As EventLog.rows. Raises LogUnavailable where the transaction is lost."""
        ...
