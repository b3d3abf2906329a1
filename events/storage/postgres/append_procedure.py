"""The stored procedure that appends a batch inside PostgreSQL: one call, one round trip, one commit.

Its text names no schema: `events` is found by the connection's search_path, as the reads find it, so it stays right
when its schema is renamed. It writes only into the log that the caller knows, see postgres_batch_store.KnownLog.

The procedure takes the log's lock, reads the head, compares the streams' versions with what each append expects, adds
the rows to the chain (the same bytes as events/integrity/hash_chain.py), refers to files, erases, notifies the
processes that hold one of the streams (stream_holders.py), and commits by itself: the lock is never held while waiting
for a client. Commits are serialised, so positions are gapless and become visible in order.
"""

APPEND_LOCK = 0x43484C  # "CHL", beside the table's number: every log of a database has its own
NAME = "events_append_5"  # another procedure is another name: nodes of two versions serve side by side
OLD_NAME = "events_append_1"  # of 0.4: it names the schema that it was created in
WRONG_LOG = "CHL01"  # SQLSTATE: this is not the log that the caller knows

# `sender` is the calling process, `e_told` says which events all processes are told of (none, if it is empty).
_PROCEDURE = """
CREATE OR REPLACE PROCEDURE {schema}.{name}(
    known bigint, known_digest bytea, known_table oid, sender uuid,
    streams text[], a_stream integer[], a_expected bigint[], a_count bigint[], a_erases boolean[],
    a_depends integer[], a_unchanged bigint[],
    e_append integer[], e_stream text[], e_version bigint[], e_type text[], e_schema bigint[], e_at bigint[],
    e_metadata text[], e_data text[], e_salt bytea[], e_commitment bytea[], e_told boolean[],
    m_append integer[], m_index integer[], m_sha256 bytea[], m_owner text[],
    INOUT placed bigint[], INOUT last bigint, INOUT proof bytea, INOUT missing bytea[]
) LANGUAGE plpgsql AS $$
DECLARE
    self oid := 'events'::regclass;
    locked text := pg_advisory_xact_lock({lock}, self::integer);
    reached bigint[];
    positions bigint[];
    digests bytea[];
    before bigint;
    file bigint;
    files bigint[];
    is_absent boolean[];
    is_known boolean;
    is_told boolean;
BEGIN
    SELECT head.position, head.digest,
           CASE WHEN known = 0 THEN self = known_table
                ELSE EXISTS (SELECT FROM events WHERE position = known AND digest = known_digest) END,
           array(SELECT coalesce((
               SELECT version FROM events WHERE stream_id = s.id ORDER BY version DESC LIMIT 1), 0)
               FROM unnest(streams) WITH ORDINALITY AS s (id, place) ORDER BY s.place),
           cardinality(e_told) > 0 OR EXISTS (
               SELECT FROM events_holders WHERE stream_id = ANY(streams || '*'::text) AND node <> sender)
      INTO last, proof, is_known, reached, is_told
      FROM (SELECT) AS one LEFT JOIN (
           SELECT position, digest FROM events ORDER BY position DESC LIMIT 1) AS head ON true;
    IF NOT is_known THEN
        RAISE EXCEPTION 'events: not the log that was opened' USING ERRCODE = '{wrong_log}';
    END IF;
    IF last IS NULL THEN
        last := 0;
        proof := decode(repeat('00', 32), 'hex');
    END IF;
    before := last;
    FOR m IN 1 .. cardinality(m_append) LOOP
        -- With the lock, a file that becomes unused at this moment is seen as such.
        SELECT id INTO file FROM media WHERE sha256 = m_sha256[m] FOR KEY SHARE;
        files[m] := file;
        IF file IS NULL THEN
            missing := missing || m_sha256[m];
            is_absent[m_append[m]] := true;
        END IF;
    END LOOP;
    placed := array_fill(NULL::bigint, ARRAY[cardinality(a_stream)]);
    FOR a IN 1 .. cardinality(a_stream) LOOP
        IF reached[a_stream[a]] = a_expected[a] AND is_absent[a] IS NOT TRUE
           AND (a_depends[a] IS NULL OR reached[a_depends[a]] = a_unchanged[a]) THEN
            placed[a] := last + 1;
            last := last + a_count[a];
            reached[a_stream[a]] := a_expected[a] + a_count[a];
        END IF;
    END LOOP;
    IF last > before THEN
        positions := array_fill(NULL::bigint, ARRAY[cardinality(e_append)]);
        digests := array_fill(NULL::bytea, ARRAY[cardinality(e_append)]);
        FOR e IN 1 .. cardinality(e_append) LOOP
            IF placed[e_append[e]] IS NOT NULL THEN
                before := before + 1;
                positions[e] := before;
                proof := sha256(
                    proof || int8send(before) || int8send(e_version[e]) || int8send(e_schema[e]) || int8send(e_at[e])
                    || int8send(octet_length(e_stream[e])) || convert_to(e_stream[e], 'UTF8')
                    || int8send(octet_length(e_type[e])) || convert_to(e_type[e], 'UTF8')
                    || int8send(octet_length(e_metadata[e])) || convert_to(e_metadata[e], 'UTF8') || e_commitment[e]);
                digests[e] := proof;
            END IF;
        END LOOP;
        INSERT INTO events
        SELECT * FROM unnest(positions, e_stream, e_version, e_type, e_schema, e_at, e_metadata, e_data, e_salt,
                             e_commitment, digests) AS e (position)
         WHERE e.position IS NOT NULL;
        FOR m IN 1 .. cardinality(m_append) LOOP
            IF placed[m_append[m]] IS NOT NULL THEN
                INSERT INTO media_references
                VALUES (files[m], placed[m_append[m]] + m_index[m], streams[a_stream[m_append[m]]], NULL)
                ON CONFLICT DO NOTHING;
                DELETE FROM media_references WHERE media_id = files[m] AND position = 0 AND holder = m_owner[m];
            END IF;
        END LOOP;
        FOR a IN 1 .. cardinality(a_stream) LOOP
            IF a_erases[a] AND placed[a] IS NOT NULL THEN
                UPDATE events AS e SET data = NULL, salt = NULL
                 WHERE e.stream_id = streams[a_stream[a]] AND e.version < a_expected[a] + a_count[a]
                   AND e.data IS NOT NULL;
            END IF;
        END LOOP;
        IF is_told THEN
            PERFORM events_notify_1(sender, last, array_agg(placed[e.append] + e.version - a_expected[e.append] - 1),
                                  array_agg(e.stream), array_agg(e.version), array_agg(e.type),
                                  array_agg(coalesce(e_told[e.place], false)))
               FROM unnest(e_append, e_stream, e_version, e_type)
                    WITH ORDINALITY AS e (append, stream, version, type, place)
              WHERE placed[e.append] IS NOT NULL;
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
CALL = f"CALL {NAME}({', '.join(f'${number}' for number in range(1, 27))}, NULL, NULL, NULL, NULL)"


def append_procedure(schema: str) -> str:
    """The statement that creates the procedure in `schema`, a quoted identifier."""
    return _PROCEDURE.format(schema=schema, name=NAME, lock=APPEND_LOCK, wrong_log=WRONG_LOG)
