"""Any history, folded in any batches by either store, gives the same answers."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from projections.checkpoint import checkpoint_at
from projections.port import ProjectionStore
from tests.contract.test_projection_contract import answers
from tests.property.test_projections import DEEDS, LIVES, People
from tests.support.log.memory_log import MemoryLog
from tests.support.nightly import scaled
from tests.support.programs.postgres_server import PostgresServer
from tests.support.projection_stores import PostgresProjectionStores, ProjectionStores, SqliteProjectionStores

pytestmark = pytest.mark.real_part
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop, to which the connections of the store belong."""
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def in_postgres(postgres: PostgresServer, runner: asyncio.Runner) -> Iterator[ProjectionStores]:
    async def make() -> PostgresProjectionStores:
        return PostgresProjectionStores(await postgres.schema())

    stores = runner.run(make())
    yield stores
    runner.run(stores.close())


@settings(max_examples=scaled(4), deadline=None)
@given(happenings=st.lists(DEEDS, min_size=15, max_size=50), sizes=SIZES)
@example(happenings=LIVES[0], sizes=[2])
@example(happenings=LIVES[3], sizes=[1])
@example(happenings=LIVES[5], sizes=[3])
@example(happenings=LIVES[6], sizes=[2, 1])
def test_both_stores_give_the_same_answers_in_whatever_batches_they_fold(
    in_postgres: ProjectionStores, runner: asyncio.Runner, happenings: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    people = People()
    for verb, number, choice in happenings:
        if verb not in ("follow", "restart"):
            people.act(verb, number, choice)
    with tempfile.TemporaryDirectory() as folder:
        in_sqlite = SqliteProjectionStores(Path(folder))
        expected = runner.run(answers_of(in_sqlite, people.log, [1_000]))
        assert runner.run(answers_of(in_sqlite, people.log, sizes)) == expected
    assert runner.run(answers_of(in_postgres, people.log, sizes)) == expected


async def answers_of(stores: ProjectionStores, log: MemoryLog, sizes: list[int]) -> dict[str, Any]:
    store: ProjectionStore = stores.make()
    try:
        assert await store.open(log) is None
        number = 0
        while batch := log.events[store.checkpoint.position :][: sizes[number % len(sizes)]]:
            await store.apply(batch, await checkpoint_at(log, batch[-1].position))
            number += 1
        return await answers(store, log)
    finally:
        await store.replace()  # empty for the next log
        await store.close()
