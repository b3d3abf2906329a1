"""Bounds on what somebody must read: the import chain, and the files behind one request."""

import pytest

from tests.layout.imports import import_graph, longest_chain
from tests.layout.measure import REQUESTS, files_of_request

CHAIN_MAX = 16
CROSSED_MAX = 43


def test_the_longest_import_chain_is_short() -> None:
    chain = longest_chain(import_graph())
    assert len(chain) <= CHAIN_MAX, f"{len(chain)} modules, each importing the next:\n" + "\n".join(chain)


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_chat_request_crosses_few_files(path: str) -> None:
    crossed = await files_of_request(path)
    assert len(crossed) <= CROSSED_MAX, "\n".join([f"{len(crossed)} files:", *crossed])
