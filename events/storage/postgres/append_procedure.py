"""The stored procedure that appends a batch inside PostgreSQL: one call, one round trip, one commit.

Its text names no schema: `events` is found by the connection's search_path, as the reads find it, so it stays right
when its schema is renamed. It writes only into the log that the caller knows, see postgres_batch_store.KnownLog.

The procedure takes the log's lock, reads the head, compares the streams' versions with what each append expects, adds
the rows to the chain (the same bytes as events/integrity/hash_chain.py), refers to files, erases, notifies the
processes that hold one of the streams (stream_holders.py), and commits by itself: the lock is never held while waiting
for a client. Commits are serialised, so positions are gapless and become visible in order.
"""

APPEND_LOCK = 0x43484C  # "CHL", beside the table's number: every log of a database has its own
NAME = "events_append_6"  # another procedure is another name: nodes of two versions serve side by side
OLD_NAME = "events_append_1"  # of 0.4: it names the schema that it was created in
WRONG_LOG = "CHL01"  # SQLSTATE: this is not the log that the caller knows

# `sender` is the calling process; `erases` and `tells` say whether an append erases, and whether all processes are told
# of an event. Numbers come in rows: of an append (a) the place of its stream, the expected version, how many events it
# has, the place of the first, when they were recorded, whether it erases, and the stream and version that it depends on
# (0: none); of an event (e) the place of its append, version, schema version, and whether all processes are told of it;
# of a reference to a file (m) the place of the append, and of the event in that. Salts are hexadecimal; commitments and
# the digests of files, 32 bytes each, are laid end to end.
_PROCEDURE = """
CREATE OR REPLACE PROCEDURE {schema}.{name}(
    known bigint, known_digest bytea, known_table oid, sender uuid, erases boolean, tells boolean,
    streams text[], a_numbers bigint[], a_metadata text[],
    e_numbers bigint[], e_type text[], e_data text[], e_salt text[], e_commitments bytea,
    m_numbers bigint[], m_digests bytea, m_owner text[],
    INOUT placed bigint[], INOUT last bigint, INOUT proof bytea, INOUT missing bytea[]
) LANGUAGE plpgsql AS $$
DECLARE
    locked text := pg_advisory_xact_lock({lock}, 'events'::regclass::integer);
    reached bigint[];
    digests bytea[];
    before bigint;
    wanted bytea;
    file bigint;
    files bigint[];
    is_absent boolean[];
    is_known boolean;
    is_told boolean;
BEGIN
    SELECT coalesce(head.position, 0), coalesce(head.position, 0), coalesce(head.digest, known_digest),
           CASE WHEN known = 0 THEN 'events'::regclass = known_table
                ELSE EXISTS (SELECT FROM events WHERE position = known AND digest = known_digest) END,
           array(SELECT coalesce((
               SELECT version FROM events WHERE stream_id = s.id ORDER BY version DESC LIMIT 1), 0)
               FROM unnest(streams) WITH ORDINALITY AS s (id, place) ORDER BY s.place),
           tells OR EXISTS (
               SELECT FROM events_holders WHERE stream_id = ANY(streams || '*'::text) AND node <> sender)
      INTO last, before, proof, is_known, reached, is_told
      FROM (SELECT) AS one LEFT JOIN (
           SELECT position, digest FROM events ORDER BY position DESC LIMIT 1) AS head ON true;
    IF NOT is_known THEN
        RAISE EXCEPTION 'events: not the log that was opened' USING ERRCODE = '{wrong_log}';
    END IF;
    IF m_owner IS NOT NULL THEN
        FOR m IN 1 .. cardinality(m_owner) LOOP
            -- With the lock, a file that becomes unused at this moment is seen as such.
            wanted := substr(m_digests, 32 * m - 31, 32);
            SELECT id INTO file FROM media WHERE sha256 = wanted FOR KEY SHARE;
            files[m] := file;
            IF file IS NULL THEN
                missing := missing || wanted;
                is_absent[m_numbers[m][1]] := true;
            END IF;
        END LOOP;
    END IF;
    FOR a IN 1 .. cardinality(a_metadata) LOOP
        IF reached[a_numbers[a][1]] = a_numbers[a][2] AND is_absent[a] IS NOT TRUE
           AND (a_numbers[a][7] = 0 OR reached[a_numbers[a][7]] = a_numbers[a][8]) THEN
            placed := placed || last + 1;
            FOR e IN a_numbers[a][4] .. a_numbers[a][4] + a_numbers[a][3] - 1 LOOP
                last := last + 1;
                proof := sha256(
                    proof || int8send(last) || int8send(e_numbers[e][2]) || int8send(e_numbers[e][3])
                    || int8send(a_numbers[a][5])
                    || int8send(octet_length(streams[a_numbers[a][1]]))
                    || convert_to(streams[a_numbers[a][1]], 'UTF8')
                    || int8send(octet_length(e_type[e])) || convert_to(e_type[e], 'UTF8')
                    || int8send(octet_length(a_metadata[a])) || convert_to(a_metadata[a], 'UTF8')
                    || substr(e_commitments, 32 * e - 31, 32));
                digests[e] := proof;
            END LOOP;
            reached[a_numbers[a][1]] := a_numbers[a][2] + a_numbers[a][3];
        ELSE
            placed := placed || NULL::bigint;
        END IF;
    END LOOP;
    IF last > before THEN
        INSERT INTO events
        SELECT placed[a] + e_numbers[e][2] - a_numbers[a][2] - 1, streams[a_numbers[a][1]], e_numbers[e][2], e_type[e],
               e_numbers[e][3], a_numbers[a][5], a_metadata[a], e_data[e], decode(e_salt[e], 'hex'),
               substr(e_commitments, 32 * e - 31, 32), digests[e]
          FROM (SELECT n, e_numbers[n][1] FROM generate_series(1, cardinality(e_type)) AS n) AS added (e, a)
         WHERE digests[e] IS NOT NULL;
        IF m_owner IS NOT NULL THEN
            FOR m IN 1 .. cardinality(m_owner) LOOP
                IF placed[m_numbers[m][1]] IS NOT NULL THEN
                    INSERT INTO media_references
                    VALUES (files[m], placed[m_numbers[m][1]] + m_numbers[m][2],
                            streams[a_numbers[m_numbers[m][1]][1]], NULL)
                    ON CONFLICT DO NOTHING;
                    DELETE FROM media_references
                     WHERE media_id = files[m] AND position = 0 AND holder = m_owner[m];
                END IF;
            END LOOP;
        END IF;
        IF erases THEN
            FOR a IN 1 .. cardinality(a_metadata) LOOP
                IF a_numbers[a][6] = 1 AND placed[a] IS NOT NULL THEN
                    UPDATE events AS e SET data = NULL, salt = NULL
                     WHERE e.stream_id = streams[a_numbers[a][1]]
                       AND e.version < a_numbers[a][2] + a_numbers[a][3] AND e.data IS NOT NULL;
                END IF;
            END LOOP;
        END IF;
        IF is_told THEN
            PERFORM events_notify_1(sender, last, array_agg(placed[a] + e_numbers[e][2] - a_numbers[a][2] - 1),
                                  array_agg(streams[a_numbers[a][1]]), array_agg(e_numbers[e][2]),
                                  array_agg(e_type[e]), array_agg(e_numbers[e][4] = 1))
               FROM (SELECT n, e_numbers[n][1] FROM generate_series(1, cardinality(e_type)) AS n) AS added (e, a)
              WHERE digests[e] IS NOT NULL;
        END IF;
    END IF;
    COMMIT;
END $$
"""

# For transactions that append or erase by other means.
ERASE = """
UPDATE events SET data = NULL, salt = NULL
 WHERE stream_id = $1 AND version < $2 AND data IS NOT NULL AND (
       NOT EXISTS (SELECT FROM events WHERE stream_id = $1 AND version = $2 AND type = 'message_redacted')
       OR version IN (SELECT json_array_elements_text(redaction.data::json -> 'versions')::bigint
                        FROM events AS redaction WHERE redaction.stream_id = $1 AND redaction.version = $2))
"""
LOCK = f"SELECT pg_advisory_xact_lock({APPEND_LOCK}, 'events'::regclass::oid::integer)"

# Rows of numbers, and texts that are one line each (JSON has no raw control characters), come as one text: of an array,
# asyncpg looks closely at every element, which took as long as everything else that it does for an append.
_NUMBERS, _LINES = "${}::text::bigint[]", "string_to_array(${}, E'\\n')"
_PARAMETERS = (
    *["${}"] * 7, _NUMBERS, _LINES, _NUMBERS, _LINES, _LINES, _LINES, "${}", _NUMBERS, "${}", "${}",
)  # fmt: skip
_VALUES = ", ".join(value.format(number) for number, value in enumerate(_PARAMETERS, 1))
CALL = f"CALL {NAME}({_VALUES}, NULL, NULL, NULL, NULL)"


def append_procedure(schema: str) -> str:
    """The statement that creates the procedure in `schema`, a quoted identifier."""
    return _PROCEDURE.format(schema=schema, name=NAME, lock=APPEND_LOCK, wrong_log=WRONG_LOG)
