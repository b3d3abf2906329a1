"""kill -9 at a random instant under load; the nightly command is in the README."""

import random
from pathlib import Path

import pytest

from tests.crash.rounds import crash_round
from tests.support.model_server import ModelServer


@pytest.mark.parametrize("number", range(4))
async def test_nothing_acknowledged_is_lost_and_every_reply_has_ended(tmp_path: Path, number: int) -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")  # shown when it fails
    async with ModelServer(delay_s=0.005) as model:
        told = await crash_round(tmp_path, model.url, seed)
    assert told.sessions
