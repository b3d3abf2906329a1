"""One service and one model server for all tests of a module, because most of them change nothing that others see."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path_factory.mktemp("service"), model.url) as running:
        yield running


@pytest.fixture(autouse=True)
def forget_requests(model: ModelServer) -> Iterator[None]:
    yield
    model.requests.clear()
    model.clear_scripts()
    model.released.clear()
