"""Which process is told of appends to which stream: a table, the routines that read and write it, and what is notified.

A row says that a process (a node, by its row in events_nodes) holds a stream. Two rows are of no stream: by HEARS every
process is told of what all are told of, and by FOLLOWS one that follows the whole log is told of its end. Each process
listens on a channel of its own. The table is not logged: after a crash or a promotion it is empty, and every process,
having lost its connection, holds its streams again.

Nodes of version 0.8 hold nothing: while one is registered, every append is notified on the channel of the log. What
they append is told to holders by a trigger, which connections of this version turn off: their procedure does it.
"""

from collections.abc import Iterable

from events.record import BROADCAST_STREAMS, BROADCAST_TYPES

NAME = "events_holders"
HEARS, FOLLOWS = "", "*"  # in place of a stream's id
OLD_NODES = "00000000-0000-0000-0000-000000000000"  # in place of a node: those of version 0.8
NOTIFIES_ITSELF = ("chatbot.notifies", "on")  # the setting of connections whose appends notify without the trigger

TABLE = f"""
CREATE UNLOGGED TABLE {NAME} (
    stream_id text COLLATE "C" NOT NULL,
    node      uuid NOT NULL,
    PRIMARY KEY (stream_id, node)
)
"""

# The payload: JSON, [position, version, type, stream] of each event; the log's head for those that follow it all; or
# `null`, in place of what is too long: all held streams are to be looked at. One notification may have 8,000 bytes.
# While half of the queue waits for some listener, nothing is notified: the processes rely on their slow poll.
_NOTIFY = """
CREATE OR REPLACE FUNCTION {schema}.events_notify_1(
    sender uuid, head bigint, t_position bigint[], t_stream text[], t_version bigint[], t_type text[],
    t_all boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    log text := 'events_' || 'events'::regclass::oid;
    receiver uuid;
    told record;
    lines text;
BEGIN
    IF pg_notification_queue_usage() >= 0.5 THEN
        RETURN;
    END IF;
    PERFORM pg_notify(CASE node WHEN '00000000-0000-0000-0000-000000000000' THEN log
                                ELSE log || '_' || replace(node::text, '-', '') END, head::text)
       FROM events_holders WHERE stream_id = '*' AND node <> sender;
    FOR told IN
        SELECT DISTINCT h.node, e.place,
               json_build_array(e.position, e.version, e.type, e.stream)::text AS line
          FROM unnest(t_position, t_stream, t_version, t_type, t_all)
               WITH ORDINALITY AS e (position, stream, version, type, to_all, place)
          JOIN events_holders AS h
               ON h.stream_id = ANY(CASE WHEN e.to_all THEN ARRAY[e.stream, ''] ELSE ARRAY[e.stream] END)
         WHERE h.node <> sender ORDER BY h.node, e.place
    LOOP
        IF octet_length(told.line) > 7000 THEN
            PERFORM pg_notify(log || '_' || replace(told.node::text, '-', ''), 'null');
            CONTINUE;
        END IF;
        IF receiver = told.node AND octet_length(lines) + octet_length(told.line) < 7900 THEN
            lines := lines || ',' || told.line;
            CONTINUE;
        END IF;
        IF receiver IS NOT NULL THEN
            PERFORM pg_notify(log || '_' || replace(receiver::text, '-', ''), lines || ']');
        END IF;
        receiver := told.node;
        lines := '[' || told.line;
    END LOOP;
    IF receiver IS NOT NULL THEN
        PERFORM pg_notify(log || '_' || replace(receiver::text, '-', ''), lines || ']');
    END IF;
END $$
"""

# With the rights of its owner: a role that older programs use may append, and not read the table. The path is fixed, so
# that no object of that role is used instead; its text is in the body, too, which is compared after a renaming.
_TELL_ADDED = """
CREATE OR REPLACE FUNCTION {schema}.events_tell_added_1() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$ -- {schema}
BEGIN
    PERFORM events_notify_1('00000000-0000-0000-0000-000000000000', max(position),
                          array_agg(position ORDER BY position), array_agg(stream_id ORDER BY position),
                          array_agg(version ORDER BY position), array_agg(type ORDER BY position),
                          array_agg(type IN ({types}) OR stream_id IN ({streams}) ORDER BY position))
       FROM added HAVING count(*) > 0;
    RETURN NULL;
END $$
"""

# The rows are visible before the lock is taken: who appends afterwards sees them, and what was appended before is in
# the versions. The lock is shared: holders do not wait for each other.
_HOLD = """
CREATE OR REPLACE PROCEDURE {schema}.events_hold_1(
    holder uuid, added text[], removed text[], INOUT versions bigint[]
) LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM events_holders WHERE node = holder AND stream_id = ANY(removed);
    INSERT INTO events_holders SELECT one, holder FROM unnest(added) AS one ON CONFLICT DO NOTHING;
    COMMIT;
    IF cardinality(added) > 0 THEN
        PERFORM pg_advisory_xact_lock_shared({lock}, 'events'::regclass::oid::integer);
        SELECT array_agg(coalesce((
                   SELECT version FROM events WHERE stream_id = s.id ORDER BY version DESC LIMIT 1), 0)
                   ORDER BY s.place)
          INTO versions FROM unnest(added) WITH ORDINALITY AS s (id, place);
    END IF;
    COMMIT;
END $$
"""

TRIGGER = f"""
CREATE TRIGGER events_tell_added AFTER INSERT ON events
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT
    WHEN (current_setting('{NOTIFIES_ITSELF[0]}', true) IS DISTINCT FROM '{NOTIFIES_ITSELF[1]}')
    EXECUTE FUNCTION events_tell_added_1()
"""
HAS_TABLE = f"SELECT to_regclass('{NAME}') IS NOT NULL"
CALL_HOLD = "CALL events_hold_1($1, $2, $3, NULL)"
VERSIONS = """
SELECT coalesce((SELECT version FROM events WHERE stream_id = s.id ORDER BY version DESC LIMIT 1), 0)
  FROM unnest($1::text[]) WITH ORDINALITY AS s (id, place) ORDER BY s.place
"""
CHECK = f"""
SELECT coalesce((SELECT position FROM events ORDER BY position DESC LIMIT 1), 0),
       EXISTS (SELECT FROM {NAME} WHERE stream_id = '{HEARS}' AND node = $1), pg_notification_queue_usage()
"""  # noqa: S608  constants
END = "SELECT coalesce((SELECT position FROM events ORDER BY position DESC LIMIT 1), 0)"
MISSED = """
SELECT position, stream_id, version, type FROM events
 WHERE position > $1 AND position <= $2 AND (type = ANY($3::text[]) OR stream_id = ANY($4::text[])) ORDER BY position
"""


def routines(schema: str, lock: int) -> dict[str, str]:
    """The statements that create the routines in `schema`, a quoted identifier, by name. `lock`: the log's."""
    types, streams = map(_literals, (BROADCAST_TYPES, BROADCAST_STREAMS))
    return {
        "events_notify_1": _NOTIFY.format(schema=schema),
        "events_tell_added_1": _TELL_ADDED.format(schema=schema, types=types, streams=streams),
        "events_hold_1": _HOLD.format(schema=schema, lock=lock),
    }


def _literals(names: Iterable[str]) -> str:
    return ", ".join(f"'{one}'" for one in sorted(names))
