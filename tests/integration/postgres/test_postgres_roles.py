"""Roles that do not own the log's table: erased texts would stay in its pages, so they are refused or it is said."""

import asyncio
import uuid

import asyncpg
import pytest
from asyncpg.types import ServerVersion

from events.errors import LogUnusable
from events.log_observer import NoObserver
from events.options import LogOptions
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.postgres.postgres_migration_target import PostgresMigrationTarget
from events.storage.postgres.postgres_schema import check_privileges
from projections.errors import ProjectionsUnusable
from projections.postgres.node_projections import NodeProjections
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.3, erase_wait_s=0.3)


class ErasureWaitObserver(NoObserver):
    """Remembers why erasures wait."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def warned(self, subject: str, reason: str) -> None:
        assert subject == "erasure_waits"
        self.reasons.append(reason)


class Role:
    """A role of a test's own, with a schema that it may use and create in; the log there is another's."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self.name = f"r{uuid.uuid4().hex[:12]}"
        self.owners_url = url
        self.url = url.replace("postgres@", f"{self.name}@")
        self._server = server
        self.schema = url.partition("search_path=")[2]

    async def run(self, *statements: str) -> None:
        """As the superuser, in the schema."""
        await self._server.execute(*(one.format(role=self.name) for one in statements), url=self.owners_url)


@pytest.fixture
async def role(postgres: PostgresServer) -> Role:
    role = Role(postgres, await postgres.schema())
    log = await PostgresLog.open(role.owners_url)
    await fill(log, "a", "1", "2")
    await log.close()
    await role.run("CREATE ROLE {role} LOGIN", f"GRANT USAGE, CREATE ON SCHEMA {role.schema} TO {{role}}")
    await role.run("GRANT SELECT, INSERT, UPDATE ON events_redacted TO {role}")
    await role.run("GRANT SELECT, INSERT, DELETE ON events_holders TO {role}")
    return role


FILES = ("media", "media_chunks", "media_references")
OWN_ALL = tuple(f"ALTER TABLE {name} OWNER TO {{role}}" for name in ("events", "events_nodes", *FILES))
ALLOWED = "GRANT SELECT, INSERT, UPDATE ON events TO {role}"


@pytest.mark.parametrize(
    ("grant", "says"),
    [
        (
            ALLOWED,
            "may not VACUUM the tables events, media,.*ALTER TABLE events OWNER TO {role}; ALTER TABLE media OWNER",
        ),
        ("GRANT SELECT ON events TO {role}", "may not VACUUM the tables events.*ALTER TABLE events OWNER TO {role}"),
        (
            "; ".join(OWN_ALL[:-1]),
            "VACUUM the table media_references, so.*: ALTER TABLE media_references OWNER TO {role}$",
        ),
        (
            "; ".join((*OWN_ALL, "REVOKE DELETE, INSERT ON media_chunks FROM {role}")),
            "lacks privileges. Run as the owner: GRANT INSERT, DELETE ON media_chunks TO {role}$",
        ),
        (
            "; ".join((*OWN_ALL, "REVOKE INSERT ON events_redacted FROM {role}")),
            "lacks privileges. Run as the owner: GRANT INSERT ON events_redacted TO {role}$",
        ),
        ("ALTER TABLE events OWNER TO {role}", "GRANT SELECT, INSERT, UPDATE, DELETE ON events_nodes TO {role}"),
        ("ALTER TABLE events OWNER TO {role}; REVOKE UPDATE ON events FROM {role}", "GRANT UPDATE ON events TO {role}"),
    ],
)
async def test_a_role_that_may_not_vacuum_or_erase_is_refused_with_what_to_run(
    role: Role, grant: str, says: str
) -> None:
    await role.run(*grant.split("; "))
    with pytest.raises(LogUnusable, match=says.format(role=role.name)):
        await PostgresLog.open(role.url, SHORT_TIMEOUTS)
    with pytest.raises(LogUnusable, match=says.format(role=role.name)):
        await PostgresMigrationTarget.open(role.url)
    reading = await PostgresLog.open(role.url, SHORT_TIMEOUTS, read_only=True)
    assert texts(await reading.read_all(limit=ALL)) == ["1", "2"]
    await reading.close()


@pytest.mark.parametrize("way", ["own it", "be a member of the owner"])
async def test_a_role_that_may_vacuum_erases(role: Role, way: str) -> None:
    group = f"g{role.name}"
    if way == "own it":
        await role.run(*OWN_ALL)
    else:
        await role.run(f"CREATE ROLE {group}", f"ALTER TABLE events OWNER TO {group}", f"GRANT {group} TO {{role}}")
        await role.run(f"GRANT ALL ON events_nodes TO {group}")
        await role.run(*(f"ALTER TABLE {name} OWNER TO {group}" for name in FILES))
    told = ErasureWaitObserver()
    log = await PostgresLog.open(role.url, observe=told)
    await log.erase("a", 2, deleted(), ASKED)
    async with asyncio.timeout(20):
        await log._vacuum.clean.wait()
    assert (log.erasure_pending, told.reasons) == (False, [])
    await log.close()
    assert await _row_versions(role.owners_url) == 3


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        ("REVOKE CREATE ON SCHEMA {schema} FROM {role}", "GRANT CREATE ON SCHEMA {schema} TO {role}$"),
        (
            "CREATE TABLE projections_1_meta (one integer); CREATE TABLE projections_1_next_meta (one integer)",
            "ALTER TABLE projections_1_meta OWNER TO {role}; ALTER TABLE projections_1_next_meta OWNER TO {role}$",
        ),
    ],
)
async def test_a_role_that_may_not_create_the_tables_of_the_projections_is_refused_with_what_to_run(
    role: Role, lacking: str, says: str
) -> None:
    names = {"role": role.name, "schema": role.schema}
    await role.run(*OWN_ALL, lacking.format(**names))
    log = await PostgresLog.open(role.url, SHORT_TIMEOUTS)
    try:
        with pytest.raises(ProjectionsUnusable, match=says.format(**names)):
            await NodeProjections(log, log.database, log.pool).start()
        await role.run(*says.removesuffix("$").format(**names).split("; "))
        await role.run("DROP TABLE IF EXISTS projections_1_meta, projections_1_next_meta")
        projections = NodeProjections(log, log.database, log.pool)
        await projections.start()
        await projections.wait_for(2, timeout_s=20)
        await projections.stop()
    finally:
        await log.close()


async def test_an_open_transaction_that_keeps_erased_texts_is_told(role: Role) -> None:
    told = ErasureWaitObserver()
    log = await PostgresLog.open(role.owners_url, SHORT_TIMEOUTS, observe=told)
    other = await asyncpg.connect(role.owners_url)
    before = other.transaction(isolation="repeatable_read")
    await before.start()
    assert await other.fetchval("SELECT count(*) FROM events") == 2
    await log.erase("a", 2, deleted(), ASKED)
    async with asyncio.timeout(20):
        while not told.reasons:
            await asyncio.sleep(0.02)
    assert "transaction that is older than the erasure is still open" in told.reasons[0]
    assert log.erasure_pending
    await before.rollback()
    async with asyncio.timeout(20):
        await log._vacuum.clean.wait()
    assert len(told.reasons) == 1
    await other.close()
    await log.close()


async def test_a_table_that_is_given_to_another_role_meanwhile_keeps_the_erasure_pending_and_says_why(
    role: Role,
) -> None:
    await role.run(*OWN_ALL)
    told = ErasureWaitObserver()
    log = await PostgresLog.open(role.url, SHORT_TIMEOUTS, observe=told)
    await role.run("ALTER TABLE events OWNER TO postgres", ALLOWED)
    await log.erase("a", 2, deleted(), ASKED)
    async with asyncio.timeout(20):
        while not told.reasons:
            await asyncio.sleep(0.02)
    assert log.erasure_pending
    assert "let this program's role own the tables events, media" in told.reasons[0]
    await log.append("b", 0, [posted("3")], ASKED)
    await role.run("ALTER TABLE events OWNER TO {role}")
    async with asyncio.timeout(20):
        await log._vacuum.clean.wait()
    assert len(told.reasons) == 1, "each reason is told once"
    await log.close()


class Newer:
    """A connection to PostgreSQL 17, whose role does not own the table; `may_maintain` has been granted or not."""

    def __init__(self, *, may_maintain: bool) -> None:
        self._may_maintain = may_maintain

    def get_server_version(self) -> ServerVersion:
        return ServerVersion(17, 0, 0, "final", 0)

    async def fetchrow(self, _query: str) -> tuple[str, list[str], list[str]]:
        return "app", [], []

    async def fetch(self, _query: str, *_values: object) -> list[tuple[str, list[str], list[str], bool]]:
        return [("events", ["SELECT", "INSERT", "UPDATE"], [], False)]

    async def fetchval(self, query: str, _table: str) -> bool:
        assert "MAINTAIN" in query
        return self._may_maintain


async def test_from_17_on_it_is_enough_to_be_granted_maintain() -> None:
    await check_privileges(Newer(may_maintain=True), "db")
    with pytest.raises(LogUnusable, match="GRANT SELECT, INSERT, UPDATE, MAINTAIN ON events TO app, or ALTER TABLE"):
        await check_privileges(Newer(may_maintain=False), "db")


async def _row_versions(url: str) -> int:
    """Versions of rows in the table's first page that still have a body."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pageinspect SCHEMA public")
    found: int = await connection.fetchval(
        "SELECT count(*) FROM public.heap_page_items(public.get_raw_page('events', 0)) WHERE t_data IS NOT NULL"
    )
    await connection.close()
    return found
