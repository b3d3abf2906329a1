"""A schema that gets another name, and another log under the old one: no event reaches the wrong log."""

import uuid

import asyncpg
import pytest

from chatbot.cli.remedies import with_remedy
from events.errors import LogUnavailable, OutcomeUnknown, VersionConflict
from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.postgres.postgres_log import PostgresLog
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.3)

# What 0.4 made, in short: it names the schema in its text.
OLD_PROCEDURE = """
CREATE PROCEDURE {schema}.events_append_1() LANGUAGE plpgsql AS $$
DECLARE
    self oid := '{schema}.events'::regclass;
BEGIN
END $$
"""


class Schemas:
    """Two names for schemas of a test's own, one with a capital and a quote in it."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        unique = uuid.uuid4().hex[:8]
        self.names = {"old": f"old_{unique}", "new": f"New's_{unique}"}

    def url(self, name: str) -> str:
        return f"{self._server.url}?search_path=%22{self.names[name]}%22"

    async def make(self, name: str) -> None:
        await self._server.execute(f'CREATE SCHEMA "{self.names[name]}"')

    async def rename(self) -> None:
        await self._server.execute(f'ALTER SCHEMA "{self.names["old"]}" RENAME TO "{self.names["new"]}"')

    async def drop(self, name: str) -> None:
        await self._server.execute(f'DROP SCHEMA "{self.names[name]}" CASCADE')

    async def contents(self, name: str) -> list[str | None]:
        log = await PostgresLog.open(self.url(name), read_only=True)
        assert (await verify(log))[1] is None
        found = texts(await log.read_all(limit=ALL))
        await log.close()
        return found


@pytest.fixture
async def schemas(postgres: PostgresServer) -> Schemas:
    schemas = Schemas(postgres)
    await schemas.make("old")
    return schemas


async def test_after_a_rename_and_a_new_log_under_the_old_name_each_service_has_its_own(schemas: Schemas) -> None:
    log = await PostgresLog.open(schemas.url("old"))
    await fill(log, "a", "1", "2")
    await log.close()
    await schemas.rename()
    await schemas.make("old")
    mine, other = await PostgresLog.open(schemas.url("new")), await PostgresLog.open(schemas.url("old"))
    await other.append("a", 0, [posted("theirs")], ASKED)
    await mine.append("a", 2, [posted("3")], ASKED)
    await mine.append("b", 0, [posted("4")], ASKED)
    with pytest.raises(VersionConflict):
        await mine.append("a", 1, [posted("stale")], ASKED)
    await other.append("a", 1, [posted("too")], ASKED)
    await mine.erase("b", 1, deleted(), ASKED)
    await mine.close()
    await other.close()
    assert await schemas.contents("new") == ["1", "2", "3", None, None]
    assert await schemas.contents("old") == ["theirs", "too"]


@pytest.mark.parametrize("events", [0, 2])
async def test_a_running_node_does_not_write_into_a_log_that_took_the_name_of_its_own(
    schemas: Schemas, events: int
) -> None:
    log = await PostgresLog.open(schemas.url("old"), SHORT_TIMEOUTS)
    await log.append("a", 0, [posted("1")] * max(events, 1), ASKED) if events else None
    await schemas.rename()
    await schemas.make("old")
    other = await PostgresLog.open(schemas.url("old"))
    await other.append("a", 0, [posted("theirs")] * 3, ASKED)
    with pytest.raises(LogUnavailable, match="another log"):
        await log.append("a", events and 3, [posted("lost")], ASKED)
    assert log.damage is not None
    with pytest.raises(LogUnavailable, match="another log"):
        await log.append("c", 0, [posted("lost")], ASKED)
    await log.close()
    await other.close()
    assert await schemas.contents("old") == ["theirs"] * 3
    assert await schemas.contents("new") == ["1"] * events


async def test_a_running_node_notices_another_log_that_is_longer_when_it_asks_for_the_head(schemas: Schemas) -> None:
    log = await PostgresLog.open(schemas.url("old"), SHORT_TIMEOUTS)
    await fill(log, "a", "1")
    await schemas.rename()
    await schemas.make("old")
    other = await PostgresLog.open(schemas.url("old"))
    await fill(other, "a", "x", "y", "z")
    with pytest.raises(LogUnavailable, match="another log"):
        await log.latest()
    assert log.damage is not None
    await log.close()
    await other.close()


async def test_of_a_renamed_schema_a_running_node_says_that_nothing_was_recorded(schemas: Schemas) -> None:
    log = await PostgresLog.open(schemas.url("old"), SHORT_TIMEOUTS)
    await fill(log, "a", "1")
    await schemas.rename()
    for version in (1, 1):
        with pytest.raises(LogUnavailable, match=r"nothing was recorded") as refusal:
            await log.append("a", version, [posted("2")], ASKED)
        assert not isinstance(refusal.value, OutcomeUnknown)
    with pytest.raises(LogUnavailable) as refusal:
        await log.read_all(limit=1)
    assert "search_path" in with_remedy(refusal.value)
    await log.close()
    again = await PostgresLog.open(schemas.url("new"))
    await again.append("a", 1, [posted("2")], ASKED)
    await again.close()
    assert await schemas.contents("new") == ["1", "2"]


async def test_of_a_dropped_schema_a_running_node_says_that_nothing_was_recorded(schemas: Schemas) -> None:
    log = await PostgresLog.open(schemas.url("old"), SHORT_TIMEOUTS)
    await fill(log, "a", "1")
    await schemas.drop("old")
    with pytest.raises(LogUnavailable, match=r"nothing was recorded") as refusal:
        await log.append("a", 1, [posted("2")], ASKED)
    assert not isinstance(refusal.value, OutcomeUnknown)
    await log.close()


async def test_the_procedure_of_an_older_version_goes_where_it_names_another_schema(
    schemas: Schemas, postgres: PostgresServer
) -> None:
    """Nodes of 0.4 would write through it into the log that has the old name now; they make their own again."""
    await (await PostgresLog.open(schemas.url("old"))).close()
    await postgres.execute(OLD_PROCEDURE.format(schema=schemas.names["old"]))
    await (await PostgresLog.open(schemas.url("old"))).close()
    look = "SELECT 'events_append_1'::regproc"
    await postgres.execute(look, url=schemas.url("old"))  # it may stay
    await schemas.rename()
    await (await PostgresLog.open(schemas.url("new"))).close()
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await postgres.execute(look, url=schemas.url("new"))
