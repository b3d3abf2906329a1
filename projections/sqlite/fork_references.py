"""Texts of a session that forks of it still read, found step by step: each step costs as much as it answers.

The texts that a session may lend are those of its own messages, whose position is after its own beginning; others it
borrows itself. A row of a fork's table is borrowed while its position is before the fork's beginning.
"""

import msgspec
from msgspec import Struct

from projections.sqlite.read_connection import Parameters, ReadConnection

_positions = msgspec.json.Decoder(tuple[int, ...])

LENT = """
SELECT max(message_id), json_group_array(position) FILTER (
    WHERE EXISTS (SELECT 1 FROM messages b INDEXED BY messages_borrowed
                  WHERE b.position = own.position AND b.position > 0 AND b.position < b.session_no))
FROM (SELECT message_id, iif(position > :no, position, 0) AS position FROM messages
      WHERE session_no = :no AND message_id > :after ORDER BY message_id LIMIT :limit) own
"""
BORROWERS = """
SELECT DISTINCT b.session_no, s.session_id FROM messages b INDEXED BY messages_borrowed
    JOIN sessions s ON s.no = b.session_no
WHERE b.position = :position AND b.position > 0 AND b.position < b.session_no AND b.session_no > :after
ORDER BY b.session_no LIMIT :limit
"""
BORROWED_BY = """
SELECT message_id, position, model FROM messages INDEXED BY messages_of_others
WHERE session_no = :fork_no AND position > :after AND position > 0 AND position < session_no
ORDER BY position LIMIT :limit
"""


class ReferencedTexts(Struct, frozen=True):
    """Those of a page of a session's own texts that forks read, by position; `last` leads to the next page."""

    last: str
    positions: tuple[int, ...]


class ReferencingFork(Struct, frozen=True):
    """A fork that reads another session's texts."""

    no: int
    session_id: str


class ForkReference(Struct, frozen=True):
    """A message of a fork whose text is in the event at `position`, another session's."""

    message_id: str
    position: int
    model: str | None


class ForkReferences:
    """Queries about texts that forks read. All raise ProjectionsUnavailable."""

    def __init__(self, reader: ReadConnection) -> None:
        self._reader = reader

    async def texts_read_by_forks(self, session_no: int, *, after: str, limit: int) -> ReferencedTexts | None:
        """Which texts of the session's next `limit` messages after the id `after` are read; None: no more messages."""
        values: Parameters = {"no": session_no, "after": after, "limit": limit}
        ((last, positions),) = await self._reader.rows(LENT, values)
        return None if last is None else ReferencedTexts(last, _positions.decode(positions))

    async def forks_reading(self, position: int, *, after: int, limit: int) -> list[ReferencingFork]:
        """Up to `limit` forks that read the text at `position`, by `no`, beginning after that of `after`."""
        values: Parameters = {"position": position, "after": after, "limit": limit}
        return [ReferencingFork(*row) for row in await self._reader.rows(BORROWERS, values)]

    async def texts_read_by(self, fork_no: int, *, after: int, limit: int) -> list[ForkReference]:
        """Up to `limit` messages of a fork whose texts are other sessions', by position, beginning after `after`."""
        values: Parameters = {"fork_no": fork_no, "after": after, "limit": limit}
        return [ForkReference(*row) for row in await self._reader.rows(BORROWED_BY, values)]
