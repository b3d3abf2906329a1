"""kill -9, or a request to end, at a random instant under load; the nightly command is in the README."""

import random
from pathlib import Path

import pytest

from tests.crash.rounds import CrashKind, crash_round
from tests.support.model.model_server import ModelServer

KINDS = [
    CrashKind(),
    CrashKind(),
    CrashKind(retries=True),
    CrashKind(gently=True),
    CrashKind(gently=True, retries=True),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_acknowledged_is_lost_and_every_reply_ends_for_each_reader(
    tmp_path: Path, kind: CrashKind
) -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")  # shown when it fails
    async with ModelServer(delay_s=0.005) as model:
        told = await crash_round(tmp_path, model.url, seed, kind)
    assert told.sessions
