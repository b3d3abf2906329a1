"""Would PostgreSQL's partitions help a big log? `python -m tests.bench.partitions [events]`, on a server of its own.

Three layouts of the same rows: one table; ranges of positions; hashes of streams. A partitioned table has no unique
index but over its partition key, so each of the two loses one of the log's two keys: by ranges (stream_id, version),
by hashes position.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import asyncpg

from tests.support.programs.postgres_server import postgres_server

EVENTS = 10_000_000
STREAM_EVENTS = 20
PARTITIONS = 16
FILL_ROWS = 500_000
BATCH = 256
BATCHES = 150
ASKS = 200
COLUMNS = """position bigint NOT NULL, stream_id text COLLATE "C" NOT NULL, version bigint NOT NULL, type text NOT NULL,
    schema_version bigint NOT NULL, recorded_at bigint NOT NULL, metadata text NOT NULL, data text, salt bytea,
    commitment bytea NOT NULL, digest bytea NOT NULL"""
ROW = """position, md5((position % {streams})::text), position / {streams} + 1, 'message_posted', 1, position,
    '{{"actor":"bench"}}', repeat('{{"word": 1}} ', 20), '\\x00112233445566778899aabbccddeeff',
    sha256(int8send(position)), sha256(int8send(position))"""
VERSIONS = """SELECT id, (SELECT version FROM events WHERE stream_id = md5(id) ORDER BY version DESC LIMIT 1)
    FROM unnest($1::text[]) AS asked (id)"""
NEWEST = "SELECT position, data FROM events WHERE stream_id = $1 ORDER BY version DESC LIMIT 10"
HEAD = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"
PAGE = "SELECT * FROM events WHERE position > $1 ORDER BY position LIMIT 1000"
SIZES = """SELECT sum(pg_indexes_size(oid)), sum(pg_table_size(oid)) FROM pg_class
    WHERE relkind = 'r' AND relname LIKE 'events%'"""
PLANS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")


def layouts(events: int) -> dict[str, list[str]]:
    step = events // PARTITIONS + 1
    ranges = [
        f"CREATE TABLE events_{n} PARTITION OF events FOR VALUES FROM ({n * step}) TO ({(n + 1) * step})"
        for n in range(PARTITIONS)
    ] + ["CREATE TABLE events_last PARTITION OF events DEFAULT"]
    hashes = [
        f"CREATE TABLE events_{n} PARTITION OF events FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {n})"
        for n in range(PARTITIONS)
    ]
    return {
        "plain": [f"CREATE TABLE events ({COLUMNS}, PRIMARY KEY (position), UNIQUE (stream_id, version))"],
        "range": [
            f"CREATE TABLE events ({COLUMNS}, PRIMARY KEY (position)) PARTITION BY RANGE (position)",
            *ranges,
            "CREATE INDEX ON events (stream_id, version)",
        ],
        "hash": [
            f"CREATE TABLE events ({COLUMNS}, UNIQUE (stream_id, version)) PARTITION BY HASH (stream_id)",
            *hashes,
            "CREATE INDEX ON events (position)",
        ],
    }


async def fill(connection: asyncpg.Connection, events: int) -> float:
    """Rows per second, made in the server."""
    row = ROW.format(streams=events // STREAM_EVENTS)
    began_s = time.perf_counter()
    for first in range(1, events + 1, FILL_ROWS):
        last = min(first + FILL_ROWS - 1, events)
        await connection.execute(f"INSERT INTO events SELECT {row} FROM generate_series({first}, {last}) AS position")
    return events / (time.perf_counter() - began_s)


async def append(connection: asyncpg.Connection, events: int) -> float:
    """Events per second in commits of BATCH, each for another stream, with its version looked up as the log does."""
    streams = events // STREAM_EVENTS
    insert = f"INSERT INTO events SELECT {ROW.format(streams=streams)} FROM generate_series($1::bigint, $2) AS position"
    insert = insert.replace(f"position / {streams} + 1", f"position / {streams} + 1000")
    began_s = time.perf_counter()
    for number in range(BATCHES):
        first = events + 1 + number * BATCH
        ids = [str(random.randrange(streams)) for _ in range(BATCH)]
        async with connection.transaction():
            await connection.fetch(VERSIONS, ids)
            await connection.execute(insert, first, first + BATCH - 1)
    return BATCHES * BATCH / (time.perf_counter() - began_s)


async def median_ms(ask: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(ASKS):
        began_s = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began_s)
    return statistics.median(took) * 1000


async def measure(url: str, statements: list[str], events: int) -> list[str]:
    connection = await asyncpg.connect(url, server_settings=dict.fromkeys(PLANS, "off"))
    for statement in statements:
        await connection.execute(statement)
    filled = await fill(connection, events)
    await connection.execute("VACUUM (ANALYZE) events")
    await connection.execute("CHECKPOINT")
    appended = await append(connection, events)
    streams = events // STREAM_EVENTS
    ids = [await connection.fetchval("SELECT md5($1)", str(random.randrange(streams))) for _ in range(ASKS)]
    newest = await median_ms(lambda: connection.fetch(NEWEST, ids.pop()))
    head = await median_ms(lambda: connection.fetch(HEAD))
    page = await median_ms(lambda: connection.fetch(PAGE, random.randrange(events)))
    indexes, table = await connection.fetchrow(SIZES)
    await connection.execute("DROP TABLE events")
    await connection.execute("CHECKPOINT")
    await connection.close()
    sizes = [f"{int(table) / 2**20:,.0f}", f"{int(indexes) / 2**20:,.0f}"]
    return [f"{filled:,.0f}", f"{appended:,.0f}", f"{newest:.2f}", f"{head:.2f}", f"{page:.2f}", *sizes]


async def main(events: int) -> None:
    print("| layout | filled/s | appended/s | newest 10 of a stream, ms | head, ms | page of 1000, ms | table MiB"
          " | indexes MiB |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    with postgres_server(shared_buffers="512MB", max_wal_size="4GB") as server:
        for name, statements in layouts(events).items():
            figures = await measure(server.url, statements, events)
            print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS))
