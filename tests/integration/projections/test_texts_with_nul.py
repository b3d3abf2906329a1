"""A NUL in an id or a name of an event, as an import can bring it, does not stop the projections in PostgreSQL."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from events.catalogue import (
    BranchSelected,
    MessageCopied,
    MessagePosted,
    MessageWithdrawn,
    ReplyCompleted,
    ReplyStarted,
    ToolCallsClosed,
    UsageTotal,
)
from events.schema.parts import ToolCall
from projections.checkpoint import checkpoint_at
from tests.contract.test_projection_contract import answers
from tests.support.log.event_builders import completed, created, emptied, posted, started
from tests.support.log.memory_log import MemoryLog
from tests.support.programs.postgres_server import PostgresServer
from tests.support.projection_stores import PostgresProjectionStores, ProjectionStores, SqliteProjectionStores

pytestmark = pytest.mark.real_part
NUL, REPLACED = "\0", "\ufffd"


class History:
    """A log of conversations, with `odd` in every id and name that an event has."""

    def __init__(self, odd: str) -> None:
        self.owner, self.model, self.node = f"al{odd}ice", f"a{odd}model", f"node{odd}"
        self.odd, self.log = odd, MemoryLog()
        self.chat()
        self.queue()
        self.log.record("running", created(self.owner), *self.turn(0)[:2])
        self.log.record("erased", created(self.owner), *self.turn(0))
        used = UsageTotal("2026-01-01", self.model, 1, 10, 20, 0, 0)
        self.log.erase_now("erased", emptied(used, owner=self.owner))

    def message(self, number: int) -> str:
        return f"m{self.odd}{number}"

    def reply(self, number: int) -> str:
        return f"r{self.odd}{number}"

    def asked(self, number: int) -> MessagePosted:
        parent_id = self.reply(number - 1) if number else None
        return posted(self.message(number), parent_id, self.reply(number))

    def turn(self, number: int) -> tuple[MessagePosted, ReplyStarted, ReplyCompleted]:
        begun = replace(started(self.reply(number), self.message(number), self.model), node=self.node)
        return self.asked(number), begun, completed(self.reply(number), model=self.model)

    def chat(self) -> None:
        self.log.record("chat", created(self.owner))
        for number in range(5):
            self.log.record("chat", *self.turn(number))
        *begun, ended = self.turn(5)
        self.log.record("chat", *begun, replace(ended, content="", parts=(ToolCall("call", "weather", "{}"),)))
        self.log.record("chat", ToolCallsClosed(self.reply(5), ("call",), "superseded"))
        self.log.record("chat", MessageCopied(self.message(1), "user", "its text"), BranchSelected(self.reply(2)))

    def queue(self) -> None:
        self.log.record("queue", created("bob"), *(self.asked(number) for number in range(3)))
        self.log.record("queue", MessageWithdrawn(self.message(1), self.reply(1), self.message(0)))

    async def answers(self, stores: ProjectionStores, size: int) -> Any:
        """What a store says of it after it has folded batches of `size` events, with each NUL replaced."""
        store, log = stores.make(), self.log
        try:
            assert await store.open(log) is None
            while batch := log.events[store.checkpoint.position :][:size]:
                await store.apply(batch, await checkpoint_at(log, batch[-1].position))
            found = await answers(store, log)
            session = await store.queries.session("chat")
            assert session is not None
            found["named"] = [
                await store.queries.snapshot("chat", before=self.message(2), limit=2, owner=self.owner),
                await store.queries.newest_leaf(session.no, self.message(3)),
                await store.queries.owed_by_other_nodes(self.node, limit=9),
                await store.queries.usage("model", "2000-01-01", "2100-01-01", self.owner),
            ]
            return msgspec.json.decode(msgspec.json.encode(found).replace(b"\\u0000", REPLACED.encode()))
        finally:
            await store.close()
            await stores.close()


@pytest.mark.parametrize("size", [1, 1_000])
async def test_a_nul_is_replaced_in_postgresql(postgres: PostgresServer, tmp_path: Path, size: int) -> None:
    found = await History(NUL).answers(PostgresProjectionStores(await postgres.schema()), size)
    assert found == await History(REPLACED).answers(SqliteProjectionStores(tmp_path), size)
