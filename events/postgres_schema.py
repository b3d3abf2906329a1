"""The log as PostgreSQL keeps it: the table's mark, the table, and the triggers by which the database itself refuses to
forget, change or reorder what happened.

Texts stay texts: the chain is over the very bytes of `data`, which jsonb would not keep. `stream_id` compares byte by
byte, so that no upgrade of the system's collations can harm its index.
"""

import asyncpg

from events.errors import LogUnusable
from events.postgres_append import append_procedure

FORMAT = 1
MARK = "chatbot event log, format "  # the table's comment, then FORMAT: tells a log from any other table `events`
SERVER_MIN = (14, 0)  # procedures with results
CREATION_LOCK = 0x43484C47  # "CHLG": two nodes that start together make one log

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

# Once for each statement, however many rows it brings: for each row by itself it would cost as much as the insertion.
# What was there has no gap, so the new rows have none if each follows one that is there.
REFUSE_GAP = """
CREATE FUNCTION events_refuse_gap() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    low bigint;
    high bigint;
    number bigint;
BEGIN
    SELECT min(position), max(position), count(*) INTO low, high, number FROM added;
    IF number > 0 AND (high - low + 1 <> number OR low <> 1 + coalesce((
        SELECT position FROM {schema}.events WHERE position < low ORDER BY position DESC LIMIT 1), 0)
        OR EXISTS (SELECT FROM {schema}.events WHERE position > high)) THEN
        RAISE EXCEPTION 'events: position must be the one after the last';
    END IF;
    IF EXISTS (SELECT FROM added WHERE version <> 1 AND NOT EXISTS (
        SELECT FROM {schema}.events AS before
         WHERE before.stream_id = added.stream_id AND before.version = added.version - 1)) THEN
        RAISE EXCEPTION 'events: version must be the one after the stream''s last';
    END IF;
    RETURN NULL;
END $$
"""

REFUSE_DELETE = """
CREATE FUNCTION events_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events: what happened cannot be deleted';
END $$
"""

REFUSE_UPDATE = """
CREATE FUNCTION events_refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
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

_LOOK = """
SELECT quote_ident(current_schema()), current_setting('server_encoding'),
       to_regclass(quote_ident(current_schema()) || '.events') IS NOT NULL,
       obj_description(to_regclass(quote_ident(current_schema()) || '.events'), 'pg_class')
"""


async def check_format(connection: asyncpg.Connection, label: str) -> bool:
    """Whether there is no log yet. Raises LogUnusable for a server or a table that this program cannot use."""
    version = connection.get_server_version()
    if version[:2] < SERVER_MIN:
        raise LogUnusable(
            f"database {label} is PostgreSQL {version.major}: this program needs {SERVER_MIN[0]} or newer"
        )
    schema, encoding, exists, comment = await connection.fetchrow(_LOOK)
    if schema is None:
        raise LogUnusable(f"database {label}: none of the schemas in its search_path exists: create one")
    if encoding != "UTF8":
        raise LogUnusable(f"database {label} keeps texts as {encoding}: create one with ENCODING 'UTF8'")
    if not exists:
        return True
    found = (comment or "").removeprefix(MARK)
    if not (comment or "").startswith(MARK):
        raise LogUnusable(
            f"database {label} has a table {schema}.events of another program: choose another database, or another"
            " schema by ?search_path=NAME in DATABASE_URL"
        )
    if found != str(FORMAT):
        raise LogUnusable(
            f"database {label} was written by a newer version of this program (format {found}, this one reads"
            f" {FORMAT}): update the program or choose another DATABASE_URL"
        )
    return False


async def create(connection: asyncpg.Connection, label: str) -> None:
    """Make the log where there is none, and this program's procedure where it is missing. Raises as check_format."""
    if await connection.fetchval("SHOW fsync") != "on":
        raise LogUnusable(f"database {label} runs with fsync=off, and would lose what was acknowledged: turn it on")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", CREATION_LOCK)
        schema = await connection.fetchval("SELECT quote_ident(current_schema())")
        if await check_format(connection, label):
            for statement in (TABLE, REFUSE_GAP.format(schema=schema), REFUSE_DELETE, REFUSE_UPDATE, TRIGGERS):
                await connection.execute(statement)
            await connection.execute(f"COMMENT ON TABLE events IS '{MARK}{FORMAT}'")
        name, definition = append_procedure(schema)
        if not await connection.fetchval("SELECT count(*) FROM pg_proc WHERE oid = to_regproc($1)", f"{schema}.{name}"):
            await connection.execute(definition)
