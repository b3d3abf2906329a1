"""What bringing a session back reads of the log."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from chatbot.sessions import activate
from chatbot.sessions.commands import Asker, ChangeMetadata, CreateSession
from tests.support.sessions_under_test import Sessions


@pytest.mark.parametrize("position", [None, 0], ids=["projections that know all", "projections that may not"])
async def test_a_stream_is_read_only_where_the_projections_may_not_know_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int | None
) -> None:
    real, asker, read = Sessions(tmp_path), Asker(owner="mina"), []
    await real.open()
    await real.supervisor.ask("s", CreateSession("mina", {"a": 1}, 60, None, "Be brief."), asker)
    answer = await real.supervisor.ask("s", ChangeMetadata(title="Tea"), asker)
    await real.runner.wait_for(real.log.head().position)
    stream = real.log.read

    async def counted(stream_id: str, **how: Any) -> Any:
        read.append(stream_id)
        return await stream(stream_id, **how)

    monkeypatch.setattr(real.log, "read", counted)
    runner: Any = real.runner if position is None else SimpleNamespace(position=position)
    ports = replace(real.ports, runner=runner)
    assert await activate.load(ports, "s") == answer.state
    assert await activate.load(ports, "nobody's") is None
    assert read == ([] if position is None else ["s", "nobody's"])
    await real.close()
