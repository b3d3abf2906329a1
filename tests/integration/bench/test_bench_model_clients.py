"""The benchmark of clients for model servers reads whole replies, or fails."""

import pytest

from tests.bench.model_clients import CLIENTS, Case, Make, measure
from tests.support.model.model_server import ModelServer

CASE = Case("two clients, 3 tokens", 2, 3, 0.0, "us/turn")


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
async def test_each_client_reads_every_token_or_the_benchmark_fails(make: Make) -> None:
    async with ModelServer() as server:
        server.script(times=None, pieces=(" w000", " w001", " w002"))
        assert await measure(server.url, make, CASE) > 0
        server.script(times=None, pieces=(" w000", " w002"))
        with pytest.raises(RuntimeError, match=r"160 tokens in place of 240"):
            await measure(server.url, make, CASE)
