"""The tables of a log in PostgreSQL that keep files, and the statements on them, as in sqlite_media_schema.

A file has `sha256` from the moment when it is complete until its last reference goes; then it `is_unused`, and its
bytes are deleted a few at a time. A transaction that adds a reference locks the file's row first, so that it cannot
become unused then.
"""

from collections.abc import Iterable

import asyncpg

from events.errors import LogUnusable, Remedy
from events.media import CHUNKS_AT_ONCE

NAMES = ("media", "media_chunks", "media_references")
MARK = "chatbot event log, files"  # the comment of the table `media`: tells it from any other

TABLES = f"""
CREATE TABLE media (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256     bytea UNIQUE CHECK (octet_length(sha256) = 32), -- NULL while the file arrives, and once it is unused
    media_type text NOT NULL,
    bytes      bigint NOT NULL,
    touched_at bigint NOT NULL, -- microseconds, UTC: of the last piece that has arrived
    is_unused  boolean NOT NULL DEFAULT false, -- nothing refers to it, its bytes are being deleted
    CHECK (NOT is_unused OR sha256 IS NULL)
);
CREATE INDEX media_incomplete ON media (is_unused, touched_at) WHERE sha256 IS NULL;
CREATE TABLE media_chunks (
    media_id bigint NOT NULL REFERENCES media,
    number   integer NOT NULL, -- from 0
    data     bytea NOT NULL,
    PRIMARY KEY (media_id, number)
);
ALTER TABLE media_chunks ALTER data SET STORAGE EXTERNAL; -- pictures do not get smaller
CREATE TABLE media_references (
    media_id bigint NOT NULL REFERENCES media,
    position bigint NOT NULL, -- of the event; 0: an upload
    holder   text COLLATE "C" NOT NULL, -- the event's stream; of an upload its owner, '' where none is known
    due_at   bigint, -- microseconds, UTC: of an upload, when it goes
    PRIMARY KEY (media_id, position, holder)
);
CREATE INDEX media_references_by_holder ON media_references (holder, position);
CREATE INDEX media_uploads_due ON media_references (due_at) WHERE position = 0;
COMMENT ON TABLE media IS '{MARK}';
"""

# Functions by name; each names the schema, as those of postgres_schema.
FUNCTIONS = {
    "media_refuse": """
CREATE OR REPLACE FUNCTION {schema}.media_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'media: a file that is in use can be neither changed nor deleted';
END $$
""",
    "media_check_update": """
CREATE OR REPLACE FUNCTION {schema}.media_check_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id <> OLD.id OR OLD.is_unused OR (OLD.sha256 IS NOT NULL AND NOT (
        NEW.is_unused AND NEW.bytes = OLD.bytes
        AND NOT EXISTS (SELECT FROM {schema}.media_references WHERE media_id = OLD.id))) THEN
        RAISE EXCEPTION 'media: a file cannot be changed';
    END IF;
    RETURN NEW;
END $$
""",
    "media_chunks_check_delete": """
CREATE OR REPLACE FUNCTION {schema}.media_chunks_check_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}.media WHERE id = OLD.media_id AND NOT is_unused) THEN
        RAISE EXCEPTION 'media: a file that is in use cannot be deleted';
    END IF;
    RETURN OLD;
END $$
""",
    "media_references_check_delete": """
CREATE OR REPLACE FUNCTION {schema}.media_references_check_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM {schema}.events WHERE position = OLD.position AND data IS NOT NULL) THEN
        RAISE EXCEPTION 'media: an event refers to this file';
    END IF;
    RETURN OLD;
END $$
""",
    "media_references_release": """
CREATE OR REPLACE FUNCTION {schema}.media_references_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM {schema}.media WHERE id = OLD.media_id FOR UPDATE;
    IF NOT EXISTS (SELECT FROM {schema}.media_references WHERE media_id = OLD.media_id) THEN
        UPDATE {schema}.media SET sha256 = NULL, is_unused = true WHERE id = OLD.media_id;
    END IF;
    RETURN NULL;
END $$
""",
    "events_release_media": """
CREATE OR REPLACE FUNCTION {schema}.events_release_media() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {schema}.media_references USING erased
     WHERE holder = erased.stream_id AND media_references.position = erased.position;
    RETURN NULL;
END $$
""",
}

TRIGGERS = """
CREATE TRIGGER media_check_update BEFORE UPDATE ON media FOR EACH ROW EXECUTE FUNCTION media_check_update();
CREATE TRIGGER media_refuse_delete BEFORE DELETE ON media
    FOR EACH ROW WHEN (NOT OLD.is_unused) EXECUTE FUNCTION media_refuse();
CREATE TRIGGER media_refuse_truncate BEFORE TRUNCATE ON media EXECUTE FUNCTION media_refuse();
CREATE TRIGGER media_chunks_refuse_update BEFORE UPDATE OR TRUNCATE ON media_chunks EXECUTE FUNCTION media_refuse();
CREATE TRIGGER media_chunks_check_delete BEFORE DELETE ON media_chunks
    FOR EACH ROW EXECUTE FUNCTION media_chunks_check_delete();
CREATE TRIGGER media_references_refuse_truncate BEFORE TRUNCATE ON media_references EXECUTE FUNCTION media_refuse();
CREATE TRIGGER media_references_refuse_update BEFORE UPDATE ON media_references FOR EACH ROW WHEN (NOT (
    NEW.media_id = OLD.media_id AND NEW.position = OLD.position AND NEW.holder = OLD.holder AND OLD.position = 0
)) EXECUTE FUNCTION media_refuse();
CREATE TRIGGER media_references_check_delete BEFORE DELETE ON media_references
    FOR EACH ROW EXECUTE FUNCTION media_references_check_delete();
CREATE TRIGGER media_references_release AFTER DELETE ON media_references
    FOR EACH ROW EXECUTE FUNCTION media_references_release();
CREATE TRIGGER events_release_media AFTER UPDATE ON events
    REFERENCING OLD TABLE AS erased FOR EACH STATEMENT EXECUTE FUNCTION events_release_media();
"""

_REFER = """
INSERT INTO media_references
SELECT media.id, wanted.position, wanted.holder, NULL
  FROM unnest($1::bytea[], $2::bigint[], $3::text[]) AS wanted (sha256, position, holder)
  JOIN media ON media.sha256 = wanted.sha256
ON CONFLICT DO NOTHING
"""
_UNUSED = "SELECT id FROM media WHERE sha256 IS NULL AND is_unused LIMIT 1 FOR UPDATE"
_DELETE_CHUNKS = """
DELETE FROM media_chunks WHERE media_id = $1 AND number IN (
    SELECT number FROM media_chunks WHERE media_id = $1 ORDER BY number LIMIT $2)
"""
HAS_UNUSED = "SELECT EXISTS (SELECT FROM media WHERE sha256 IS NULL AND is_unused)"


async def has_tables(connection: asyncpg.Connection, label: str) -> bool:
    """Whether the log has these tables: one that was last written by version 0.5 has none. Raises LogUnusable for a
    table `media` of another program.
    """
    query = (
        "SELECT current_schema(), obj_description(to_regclass(quote_ident(current_schema()) || '.media'), 'pg_class'),"
        " to_regclass(quote_ident(current_schema()) || '.media') IS NOT NULL"
    )
    schema, comment, exists = await connection.fetchrow(query)
    if exists and comment != MARK:
        raise LogUnusable(
            f"database {label} has a table {schema}.media of another program",
            remedy=Remedy.OTHER_DATABASE_OR_SCHEMA,
        )
    return bool(exists)


async def add_references(connection: asyncpg.Connection, references: Iterable[tuple[bytes, int, str]]) -> None:
    """Those of (SHA-256, position, stream) whose file the log has. Part of a transaction. Raises FAILURES."""
    columns = list(zip(*references, strict=True))
    if columns:
        await connection.execute(_REFER, *map(list, columns))


async def delete_unused(connection: asyncpg.Connection) -> bool:
    """Delete up to CHUNKS_AT_ONCE chunks of a file that nothing refers to, in a transaction. Whether there may be more
    to delete. Raises FAILURES.
    """
    async with connection.transaction():
        media_id = await connection.fetchval(_UNUSED)  # waits while another node deletes it
        if media_id is not None:
            deleted = await connection.execute(_DELETE_CHUNKS, media_id, CHUNKS_AT_ONCE)
            if int(deleted.removeprefix("DELETE ")) < CHUNKS_AT_ONCE:
                await connection.execute("DELETE FROM media WHERE id = $1", media_id)
            return True
        return bool(await connection.fetchval(HAS_UNUSED))
