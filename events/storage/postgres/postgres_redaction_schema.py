"""Redactions in a log in PostgreSQL, as in sqlite_redaction_schema."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from events.record import DATA, POSITION
from events.storage.redaction_reading import with_kept

NAME = "events_redacted"
POSITIONS_MAX = 500  # positions in one query

TABLE = f"""
CREATE TABLE {NAME} (
    position    bigint PRIMARY KEY, -- of an event whose content is redacted
    redacted_by bigint NOT NULL     -- position of the message_redacted that has what is left of it
)
"""
FUNCTIONS = {
    "events_redact": """
CREATE OR REPLACE FUNCTION {schema}.events_redact() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    named bigint[];
BEGIN
    INSERT INTO {schema}.media_references
    SELECT media_id, NEW.position, NEW.stream_id, NULL FROM {schema}.media_references AS held
      JOIN {schema}.media ON media.id = media_id
     WHERE holder = NEW.stream_id AND encode(sha256, 'hex') IN (
           SELECT json_array_elements_text(coalesce(NEW.data::json -> 'files', '[]')))
     ORDER BY media_id
        ON CONFLICT DO NOTHING;
    SELECT array_agg(position) INTO named FROM {schema}.events
     WHERE stream_id = NEW.stream_id AND version < NEW.version AND version IN (
           SELECT json_array_elements_text(coalesce(NEW.data::json -> 'versions', '[]'))::bigint);
    INSERT INTO {schema}.events_redacted SELECT unnest(named), NEW.position
        ON CONFLICT (position) DO UPDATE SET redacted_by = excluded.redacted_by;
    UPDATE {schema}.events SET data = NULL, salt = NULL WHERE position = ANY(named) AND data IS NOT NULL;
    RETURN NULL;
END $$
""",
}
TRIGGERS = """
CREATE TRIGGER events_redact AFTER INSERT ON events
    FOR EACH ROW WHEN (NEW.type = 'message_redacted' AND NEW.data IS NOT NULL) EXECUTE FUNCTION events_redact();
"""

HAS_TABLE = f"SELECT to_regclass('{NAME}') IS NOT NULL"
# The index is not part of the chain: what is left of an event is taken from a redaction of its own stream only.
_FIND = f"""
SELECT one.position, redactions.position, redactions.data FROM {NAME} AS one
  JOIN events AS redactions ON redactions.position = redacted_by AND redactions.type = 'message_redacted'
  JOIN events AS own ON own.position = one.position AND own.stream_id = redactions.stream_id
 WHERE redactions.data IS NOT NULL AND one.position = ANY($1::bigint[])
"""  # noqa: S608  constants


_SIZES = f"""
SELECT one.position, octet_length(redactions.data) FROM {NAME} AS one
  JOIN events AS redactions ON redactions.position = redacted_by
 WHERE redactions.data IS NOT NULL AND one.position = ANY($1::bigint[])
"""  # noqa: S608  constants

Fetch = Callable[..., Awaitable[list[Any]]]  # runs a query


class RedactionReader:
    """What is left of redacted events, in one log. All methods raise as `fetch`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._has_table = False  # as far as is known: a log that version 0.7 has written last has none

    async def with_kept(self, rows: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """`rows`, the columns of events up to their data, with what is left of those that are redacted."""
        found = await self._find(_FIND, [row[POSITION] for row in rows if row[DATA] is None])
        return with_kept(rows, found) if found else rows

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """Bytes that are at least those of what is left, of the events at `positions` that are redacted."""
        return dict(map(tuple, await self._find(_SIZES, positions)))

    async def _find(self, query: str, positions: Sequence[int]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(positions), POSITIONS_MAX):
            self._has_table = self._has_table or (await self._fetch(HAS_TABLE))[0][0]
            if not self._has_table:
                break
            found += await self._fetch(query, positions[start : start + POSITIONS_MAX])
        return found
