"""A session to which other nodes write without a pause."""

from pathlib import Path
from typing import Any

import pytest

from chatbot.sessions.actor import stream_writer
from chatbot.sessions.domain.commands import Caller, ChangeMetadata, Command, CreateSession, IdempotencyKey, PostMessage
from events.catalogue import MetadataChanged, Parameters
from events.errors import LogUnavailable
from tests.support.log.sample_events import ASKED
from tests.support.sessions.sessions_harness import SessionsHarness

MINA = Caller(owner="mina")
COMMANDS: dict[str, Command] = {
    "without a key": ChangeMetadata(title="mine"),
    "with a key": PostMessage("m1", "r1", "hi", Parameters(), idempotency_key=IdempotencyKey("key", "print")),
}


@pytest.fixture(params=list(COMMANDS))
def command(request: pytest.FixtureRequest) -> Command:
    return COMMANDS[request.param]


async def overtaken(real: SessionsHarness, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """A session into whose stream another node writes just before this one does, so often; the versions of that."""
    await real.open()
    await real.supervisor.ask("s", CreateSession("mina", {}, 60, None, None), MINA)
    append, others = real.log.append, list[int]()

    async def late(stream_id: str, expected_version: int, *what: Any) -> Any:
        if len(others) < times:
            others.append(expected_version + 1)
            await append(stream_id, expected_version, [MetadataChanged({"by": len(others)})], ASKED)
        return await append(stream_id, expected_version, *what)

    monkeypatch.setattr(real.log, "append", late)
    return others


async def test_a_request_comes_in_however_many_rounds_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    real = SessionsHarness(tmp_path)
    others = await overtaken(real, monkeypatch, times=30)
    answer = await real.supervisor.ask("s", command, MINA)
    assert others == list(range(2, 32))
    assert answer.state.session.version > 31
    await real.close()


async def test_after_its_time_it_is_told_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    real = SessionsHarness(tmp_path)
    monkeypatch.setattr(stream_writer, "CONTENTION_MAX_S", 0.05)
    others = await overtaken(real, monkeypatch, times=1_000_000)
    with pytest.raises(LogUnavailable, match="others keep writing to this session; try again"):
        await real.supervisor.ask("s", command, MINA)
    assert stream_writer.ROUNDS_MIN <= len(others) < 1000
    monkeypatch.undo()
    assert (await real.supervisor.ask("s", command, MINA)).state.session.version > len(others)
    await real.close()
