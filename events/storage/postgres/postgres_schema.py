"""The schema of a log in PostgreSQL: its table, the triggers that make the table append-only, the mark that tells a log
from other tables, and the privileges that a node needs.

`data` is text, not jsonb: the chain covers its exact bytes, which jsonb would not keep. `stream_id` is compared byte by
byte, so that no upgrade of the system's collations can invalidate its index.
"""

import asyncpg

from events.errors import LogUnusable, Remedy
from events.storage.incomplete_log import LogIncomplete, WritingCommand, writing_command_of
from events.storage.postgres import postgres_media_schema as media
from events.storage.postgres import postgres_redaction_schema as redactions
from events.storage.postgres import stream_holders as holders
from events.storage.postgres.append_procedure import APPEND_LOCK, NAME, OLD_NAME, append_procedure

FORMAT = 1
MARK = "chatbot event log, format "  # the table's comment, then FORMAT: tells a log from any other table `events`
SERVER_MIN = (14, 0)  # procedures with results
CREATION_LOCK = 0x43484C47  # "CHLG": of two nodes that start together one creates the log

COLUMNS = (
    "position", "stream_id", "version", "type", "schema_version", "recorded_at",
    "metadata", "data", "salt", "commitment", "digest",
)  # fmt: skip

TABLE = """
CREATE TABLE events (
    position       bigint PRIMARY KEY CHECK (position > 0),
    stream_id      text COLLATE "C" NOT NULL,
    version        bigint NOT NULL CHECK (version > 0),
    type           text   NOT NULL,
    schema_version bigint NOT NULL,
    recorded_at    bigint NOT NULL, -- microseconds, UTC
    metadata       text   NOT NULL, -- JSON: who asked
    data           text,            -- JSON; NULL once erased
    salt           bytea,           -- 16 random bytes; NULL once erased
    commitment     bytea  NOT NULL CHECK (octet_length(commitment) = 32),
    digest         bytea  NOT NULL CHECK (octet_length(digest) = 32),
    UNIQUE (stream_id, version),
    CHECK ((data IS NULL) = (salt IS NULL))
)
"""

# Once per statement, and with one query: per row it would cost as much as the insertion. The rows that were there have
# no gap, so the new rows have none if each of them follows an existing row.
REFUSE_GAP = """
CREATE OR REPLACE FUNCTION {schema}.events_refuse_gap() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    has_position_gap boolean;
    has_version_gap boolean;
BEGIN
    SELECT number > 0 AND (high - low + 1 <> number OR low <> 1 + coalesce((
               SELECT position FROM {schema}.events WHERE position < low OR position > high
                ORDER BY position DESC LIMIT 1), 0)), has_gap
      INTO has_position_gap, has_version_gap
      FROM (SELECT min(position) AS low, max(position) AS high, count(*) AS number,
                   bool_or(version <> 1 AND NOT EXISTS (
                       SELECT FROM {schema}.events AS before
                        WHERE before.stream_id = added.stream_id AND before.version = added.version - 1)) AS has_gap
              FROM added) AS batch;
    IF has_position_gap THEN
        RAISE EXCEPTION 'events: position must be the one after the last';
    END IF;
    IF has_version_gap THEN
        RAISE EXCEPTION 'events: version must be the one after the stream''s last';
    END IF;
    RETURN NULL;
END $$
"""

# Not part of the log: which processes serve it, see events/storage/postgres/node_registry.py.
NODES = """
CREATE TABLE {schema}.events_nodes (
    id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    version text NOT NULL, -- JSON: name, version of the program, what it can read
    seen_at timestamptz NOT NULL DEFAULT now()
)
"""

REFUSE_DELETE = """
CREATE OR REPLACE FUNCTION {schema}.events_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events: what happened cannot be deleted';
END $$
"""

REFUSE_UPDATE = """
CREATE OR REPLACE FUNCTION {schema}.events_refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events: what happened cannot be changed, only its content erased';
END $$
"""

TRIGGERS = """
CREATE TRIGGER events_refuse_gap AFTER INSERT ON events
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_gap();
CREATE TRIGGER events_refuse_delete BEFORE DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_delete();
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events FOR EACH ROW WHEN (NOT (
    OLD.data IS NOT NULL AND NEW.data IS NULL AND NEW.salt IS NULL
    AND NEW.position = OLD.position AND NEW.stream_id = OLD.stream_id AND NEW.version = OLD.version
    AND NEW.type = OLD.type AND NEW.schema_version = OLD.schema_version AND NEW.recorded_at = OLD.recorded_at
    AND NEW.metadata = OLD.metadata AND NEW.commitment = OLD.commitment AND NEW.digest = OLD.digest
)) EXECUTE FUNCTION events_refuse_update();
"""

_TABLE_STATE = """
SELECT quote_ident(current_schema()), current_setting('server_encoding'),
       to_regclass(quote_ident(current_schema()) || '.events') IS NOT NULL,
       obj_description(to_regclass(quote_ident(current_schema()) || '.events'), 'pg_class')
"""


_BODY = "SELECT prosrc FROM pg_proc WHERE oid = to_regproc($1)"

_ROLE = """
SELECT quote_ident(current_user), array(
           SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
            WHERE NOT has_table_privilege(to_regclass('events_nodes'), privilege)), array(
           SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'DELETE']) AS privilege
            WHERE NOT has_table_privilege(to_regclass('events_holders'), privilege))
"""
# The tables of a log, and what is done with them. A log of 0.5 has only the first, one of 0.7 all but the last.
_WANTED = (
    ["events", *media.NAMES, redactions.NAME],
    ["SELECT, INSERT, UPDATE", *["SELECT, INSERT, UPDATE, DELETE"] * len(media.NAMES), "SELECT, INSERT, UPDATE"],
)
# VACUUM skips, with only a warning, a table that the role may not maintain. The owners of table and database may, from
# PostgreSQL 17 on also roles with the privilege MAINTAIN.
_PRIVILEGES = """
SELECT name, wanted, array(
           SELECT privilege FROM unnest(wanted) AS privilege WHERE NOT has_table_privilege(pg_class.oid, privilege)),
       pg_has_role(relowner, 'USAGE') OR (
           SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
  FROM (SELECT name, string_to_array(privileges, ', ') AS wanted
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS tables (name, privileges, place)) AS tables
  JOIN pg_class ON pg_class.oid = to_regclass(name)
"""
_MAINTAIN = "SELECT has_table_privilege($1, 'MAINTAIN')"
MAINTAIN_SINCE = 17


async def check_privileges(connection: asyncpg.Connection, label: str) -> None:
    """Raises LogUnusable for a role that may not append to the log, erase content, VACUUM it or register as a node."""
    role, of_nodes, of_holders = await connection.fetchrow(_ROLE)
    can_grant = connection.get_server_version().major >= MAINTAIN_SINCE
    statements, unclean = [], []
    for name, wanted, lacking, is_owner in await connection.fetch(_PRIVILEGES, *_WANTED):
        has_content = name != redactions.NAME
        if has_content and not is_owner and not (can_grant and await connection.fetchval(_MAINTAIN, name)):
            unclean.append(name)
            grant = f"GRANT {', '.join(wanted)}, MAINTAIN ON {name} TO {role}, or " if can_grant else ""
            statements.append(f"{grant}ALTER TABLE {name} OWNER TO {role}")
        elif lacking:
            statements.append(f"GRANT {', '.join(lacking)} ON {name} TO {role}")
    if of_nodes:
        statements.append(f"GRANT {', '.join(of_nodes)} ON events_nodes TO {role}")
    if of_holders:
        statements.append(f"GRANT {', '.join(of_holders)} ON events_holders TO {role}")
    if statements:
        tables = f"the table{'s' if len(unclean) > 1 else ''} {', '.join(unclean)}"
        reason = f". It may not VACUUM {tables}, so that deleted content would stay in its pages" if unclean else ""
        raise LogUnusable(
            f"database {label}: the role {role} lacks privileges{reason}. Run as the owner: {'; '.join(statements)}"
        )


async def check_format(connection: asyncpg.Connection, label: str, command: WritingCommand | None = None) -> bool:
    """Whether there is no log yet. Raises LogUnusable for a server or a table that this program cannot use, and for a
    log that another command than `command` has not finished.
    """
    version = connection.get_server_version()
    if version[:2] < SERVER_MIN:
        raise LogUnusable(
            f"database {label} is PostgreSQL {version.major}: this program needs {SERVER_MIN[0]} or newer"
        )
    schema, encoding, exists, comment = await connection.fetchrow(_TABLE_STATE)
    if schema is None:
        raise LogUnusable(f"database {label}: none of the schemas in its search_path exists: create one")
    if encoding != "UTF8":
        raise LogUnusable(f"database {label} keeps texts as {encoding}: create one with ENCODING 'UTF8'")
    if not exists:
        return True
    found = (comment or "").removeprefix(MARK)
    if not (comment or "").startswith(MARK):
        raise LogUnusable(
            f"database {label} has a table {schema}.events of another program",
            remedy=Remedy.OTHER_DATABASE_OR_SCHEMA,
        )
    unfinished = writing_command_of(int(found)) if found.isdecimal() else None
    if unfinished is not None and unfinished is not command:
        raise LogIncomplete(label, unfinished)
    if found != str(FORMAT) and unfinished is None:
        raise LogUnusable(
            f"database {label} was written by a newer version of this program (format {found}, this one reads"
            f" {FORMAT})",
            remedy=Remedy.UPDATE_OR_OTHER_DATABASE,
        )
    return False


def mark(command: WritingCommand | None) -> str:
    """The statement that marks the log as unfinished by `command`, or (None) as finished."""
    return f"COMMENT ON TABLE events IS '{MARK}{FORMAT if command is None else command.format}'"


async def create(connection: asyncpg.Connection, label: str, command: WritingCommand | None = None) -> None:
    """Create the log where there is none, marked as unfinished by `command`, and the triggers' functions and the append
    procedure of this version where they are missing. Raises as check_format.
    """
    if await connection.fetchval("SHOW fsync") != "on":
        raise LogUnusable(f"database {label} runs with fsync=off, and would lose what was acknowledged: turn it on")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", CREATION_LOCK)
        schema = await connection.fetchval("SELECT quote_ident(current_schema())")
        is_new = await check_format(connection, label, command)
        if is_new:
            await connection.execute(TABLE)
        else:
            await check_privileges(connection, label)
        has_media = await media.has_tables(connection, label)
        if not has_media:
            await connection.execute(media.TABLES)
        has_redactions = await connection.fetchval(redactions.HAS_TABLE)
        if not has_redactions:
            await connection.execute(redactions.TABLE)
        has_holders = await connection.fetchval(holders.HAS_TABLE)
        if not has_holders:
            await connection.execute(holders.TABLE)
        await _create_routines(connection, schema)
        if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{schema}.events_nodes"):
            await connection.execute(NODES.format(schema=schema))
        if is_new:
            await connection.execute(TRIGGERS)
            await connection.execute(mark(command))
        if not has_media:
            await connection.execute(media.TRIGGERS)
        if not has_redactions:
            await connection.execute(redactions.TRIGGERS)
        if not has_holders:
            await connection.execute(holders.TRIGGER)


async def _create_routines(connection: asyncpg.Connection, schema: str) -> None:
    """Create routines that are missing or have another text: some contain the schema's name, which may have changed."""
    routines = {
        "events_refuse_gap": REFUSE_GAP,
        "events_refuse_delete": REFUSE_DELETE,
        "events_refuse_update": REFUSE_UPDATE,
        **media.FUNCTIONS,
        **redactions.FUNCTIONS,
    }
    definitions = {name: template.format(schema=schema) for name, template in routines.items()}
    definitions |= {NAME: append_procedure(schema), **holders.routines(schema, APPEND_LOCK)}
    for name, definition in definitions.items():
        if await _body(connection, schema, name) != definition.split("$$")[1]:
            await connection.execute(definition)
    old, literal = await _body(connection, schema, OLD_NAME), schema.replace("'", "''")
    if old is not None and f"'{literal}.events'::regclass" not in old:
        await connection.execute(f"DROP PROCEDURE {schema}.{OLD_NAME}")  # it would write into the log of that schema


async def _body(connection: asyncpg.Connection, schema: str, name: str) -> str | None:
    """The text of a function or procedure; None where there is none."""
    found: str | None = await connection.fetchval(_BODY, f"{schema}.{name}")
    return found
