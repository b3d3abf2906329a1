"""How a batch becomes rows inside PostgreSQL: one call of a procedure, one round trip, one commit.

Its text names no schema: `events` is found by the connection's search_path, as the reads find it, so it stays right
when its schema gets another name. It writes only into the log that the caller knows, see `Known`.

The procedure takes the log's lock, reads the head, compares the streams' versions with what each append expects, places
the rows on the chain (the very bytes of events/integrity/hash_chain.py), erases, wakes whoever listens, and commits
by itself: the lock never waits for a client, whatever becomes of it. Commits are serialised, so positions are gapless
and become visible in order.
"""

from collections.abc import Sequence
from itertools import count

import asyncpg
from msgspec import Struct

from events.catalogue import SCHEMA_VERSIONS
from events.record import Head, RecordedEvent
from events.storage.append_batch import PendingAppend
from events.storage.postgres.postgres_connection import Database, close_gracefully

APPEND_LOCK = 0x43484C  # "CHL", beside the table's number: every log of a database has its own
NAME = "events_append_2"  # another procedure is another name: nodes of two versions serve side by side
OLD_NAME = "events_append_1"  # of 0.4: it names the schema that it was made in
WRONG_LOG = "CHL01"  # SQLSTATE: this is not the log that the caller knows

# Where half of the queue of notifications waits for some listener, the others' slow poll has to do.
_PROCEDURE = """
CREATE OR REPLACE PROCEDURE {schema}.{name}(
    known bigint, known_digest bytea, known_table oid,
    streams text[], a_stream integer[], a_expected bigint[], a_count bigint[], a_erases boolean[],
    e_append integer[], e_stream text[], e_version bigint[], e_type text[], e_schema bigint[], e_at bigint[],
    e_metadata text[], e_data text[], e_salt bytea[], e_commitment bytea[],
    INOUT placed bigint[], INOUT last bigint, INOUT proof bytea
) LANGUAGE plpgsql AS $$
DECLARE
    self oid := 'events'::regclass;
    reached bigint[];
    digests bytea[];
    before bigint;
    event record;
BEGIN
    PERFORM pg_advisory_xact_lock({lock}, self::integer);
    SELECT position, digest INTO last, proof FROM events ORDER BY position DESC LIMIT 1;
    IF NOT FOUND THEN
        last := 0;
        proof := decode(repeat('00', 32), 'hex');
    END IF;
    IF (known = 0 AND self <> known_table) OR (
        known > 0 AND NOT EXISTS (SELECT FROM events WHERE position = known AND digest = known_digest)) THEN
        RAISE EXCEPTION 'events: not the log that was opened' USING ERRCODE = '{wrong_log}';
    END IF;
    before := last;
    SELECT array_agg(coalesce((
               SELECT version FROM events WHERE stream_id = s.id ORDER BY version DESC LIMIT 1), 0)
               ORDER BY s.place)
      INTO reached FROM unnest(streams) WITH ORDINALITY AS s (id, place);
    placed := array_fill(NULL::bigint, ARRAY[cardinality(a_stream)]);
    FOR a IN 1 .. cardinality(a_stream) LOOP
        IF reached[a_stream[a]] = a_expected[a] THEN
            placed[a] := last + 1;
            last := last + a_count[a];
            reached[a_stream[a]] := a_expected[a] + a_count[a];
        END IF;
    END LOOP;
    IF last > before THEN
        digests := array_fill(NULL::bytea, ARRAY[cardinality(e_append)]);
        FOR event IN
            SELECT e.place, int8send(placed[e.append] + e.version - a_expected[e.append] - 1) AS position,
                   int8send(e.version) || int8send(e.schema) || int8send(e.at)
                   || int8send(octet_length(e.stream)) || convert_to(e.stream, 'UTF8')
                   || int8send(octet_length(e.type)) || convert_to(e.type, 'UTF8')
                   || int8send(octet_length(e.metadata)) || convert_to(e.metadata, 'UTF8') || e.commitment AS others
              FROM unnest(e_append, e_stream, e_version, e_type, e_schema, e_at, e_metadata, e_commitment)
                   WITH ORDINALITY AS e (append, stream, version, type, schema, at, metadata, commitment, place)
             WHERE placed[e.append] IS NOT NULL ORDER BY e.place
        LOOP
            proof := sha256(proof || event.position || event.others);
            digests[event.place] := proof;
        END LOOP;
        INSERT INTO events
        SELECT placed[e.append] + e.version - a_expected[e.append] - 1,
               e.stream, e.version, e.type, e.schema, e.at, e.metadata, e.data, e.salt, e.commitment, e.digest
          FROM unnest(e_append, e_stream, e_version, e_type, e_schema, e_at, e_metadata, e_data, e_salt, e_commitment,
                      digests)
               WITH ORDINALITY
               AS e (append, stream, version, type, schema, at, metadata, data, salt, commitment, digest, place)
         WHERE e.digest IS NOT NULL ORDER BY e.place;
        FOR a IN 1 .. cardinality(a_stream) LOOP
            IF a_erases[a] AND placed[a] IS NOT NULL THEN
                UPDATE events AS e SET data = NULL, salt = NULL
                 WHERE e.stream_id = streams[a_stream[a]] AND e.version < a_expected[a] + a_count[a]
                   AND e.data IS NOT NULL;
            END IF;
        END LOOP;
        IF pg_notification_queue_usage() < 0.5 THEN
            PERFORM pg_notify('events_' || self, last::text);
        END IF;
    END IF;
    COMMIT;
END $$
"""

# For transactions that append or erase by other means.
ERASE = "UPDATE events SET data = NULL, salt = NULL WHERE stream_id = $1 AND version < $2 AND data IS NOT NULL"
LOCK = f"SELECT pg_advisory_xact_lock({APPEND_LOCK}, 'events'::regclass::oid::integer)"
CALL = f"CALL {NAME}({', '.join(f'${number}' for number in range(1, 19))}, NULL, NULL, NULL)"


async def erase_before(place: Database, stream_id: str, version: int) -> None:
    """Erase content of the stream before `version`. Raises FAILURES."""
    connection = await place.connect()
    try:
        await connection.execute(ERASE, stream_id, version)
    finally:
        await close_gracefully(connection)


def append_procedure(schema: str) -> str:
    """The statement that makes it in `schema` (quoted as SQL wants it)."""
    return _PROCEDURE.format(schema=schema, name=NAME, lock=APPEND_LOCK, wrong_log=WRONG_LOG)


class Known(Struct, frozen=True):
    """What the caller knows of its log: `head`, some event of it, and as long as it has none the table's number."""

    head: Head
    table: int


class Placed(Struct, frozen=True):
    """What became of a batch: the first position of each append, None for a conflict; and the head then."""

    firsts: list[int | None]
    head: Head


async def call(connection: asyncpg.Connection, batch: Sequence[PendingAppend], known: Known) -> Placed:
    """Have `batch` recorded in the `known` log. Raises what asyncpg raises: then nobody knows whether it was."""
    log = known.head.position, known.head.digest, known.table
    firsts, last, digest = await connection.fetchrow(CALL, *log, *_arguments(batch))
    return Placed(firsts, Head(last, digest))


def _arguments(batch: Sequence[PendingAppend]) -> tuple[list[object], ...]:
    """The procedure's: the streams, a column for each thing about an append, a column for each about an event."""
    places: dict[str, int] = {}
    appends, events = [], []
    for number, append in enumerate(batch, 1):
        stream_id, expected = append.stream_id, append.expected_version
        place = places.setdefault(stream_id, len(places) + 1)
        appends.append((place, expected, len(append.contents), append.erases))
        for version, one in enumerate(append.contents, expected + 1):
            kind = one.type
            envelope = (number, stream_id, version, kind, SCHEMA_VERSIONS[kind], append.recorded_at_us)
            events.append((*envelope, append.metadata_text, one.data, one.salt, one.commitment))
    return (list(places), *map(list, zip(*appends, strict=True)), *map(list, zip(*events, strict=True)))


def recorded(append: PendingAppend, first: int) -> tuple[RecordedEvent, ...]:
    """What the caller of `append` gets once its first event is at position `first`."""
    stream_id, at_us, metadata = append.stream_id, append.recorded_at_us, append.metadata
    return tuple(
        RecordedEvent(position, stream_id, version, one.type, SCHEMA_VERSIONS[one.type], at_us, metadata, one.event)
        for position, version, one in zip(count(first), count(append.expected_version + 1), append.contents)
    )
