"""What bringing a session back reads of the log."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from chatbot.llm.provider import Finish
from chatbot.sessions.actor import hydration
from chatbot.sessions.domain.commands import Caller, ChangeMetadata, CreateSession, PostMessage
from events.catalogue import Parameters
from projections.errors import ProjectionsUnavailable
from tests.support.sessions.sessions_harness import SessionsHarness


@pytest.mark.parametrize("position", [None, 0], ids=["projections that know all", "projections that may not"])
async def test_a_stream_is_read_only_where_the_projections_may_not_know_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int | None
) -> None:
    real, caller, read = SessionsHarness(tmp_path), Caller(owner="mina"), []
    await real.open()
    await real.supervisor.ask("s", CreateSession("mina", {"a": 1}, 60, None, "Be brief."), caller)
    answer = await real.supervisor.ask("s", ChangeMetadata(title="Tea"), caller)
    await real.runner.wait_for(real.log.head().position)
    stream = real.log.read

    async def counted(stream_id: str, **how: Any) -> Any:
        read.append(stream_id)
        return await stream(stream_id, **how)

    monkeypatch.setattr(real.log, "read", counted)
    runner: Any = real.runner if position is None else SimpleNamespace(position=position)
    ports = replace(real.ports, runner=runner)
    assert await hydration.load_state(ports, "s") == answer.state
    assert await hydration.load_state(ports, "nobody's") is None
    assert read == ([] if position is None else ["s", "nobody's"])
    await real.close()


class BeingReplaced:
    """Projections that are found unfit while they are asked, as the runner and its queries then answer."""

    def __init__(self, real: SessionsHarness, says: Exception | None) -> None:
        self.position, self.rebuilding = real.runner.position, False
        self._says = says

    async def session(self, _session_id: str) -> None:
        self.position, self.rebuilding = 0, True
        if self._says is not None:
            raise self._says


@pytest.mark.parametrize("says", [None, ProjectionsUnavailable("being rebuilt")], ids=["knows nothing", "refuses"])
async def test_a_session_is_found_while_its_projections_are_replaced(tmp_path: Path, says: Exception | None) -> None:
    real = SessionsHarness(tmp_path)
    await real.open()
    answer = await real.supervisor.ask("s", CreateSession("mina", {"a": 1}, 60, None, None), Caller(owner="mina"))
    await real.runner.wait_for(real.log.head().position)
    replaced: Any = BeingReplaced(real, says)
    assert await hydration.load_state(replace(real.ports, runner=replaced, queries=replaced), "s") == answer.state
    await real.close()


async def test_projections_that_cannot_be_read_and_are_not_replaced_are_told_of(tmp_path: Path) -> None:
    real = SessionsHarness(tmp_path)
    await real.open()
    refuses: Any = BeingReplaced(real, ProjectionsUnavailable("the disk refuses"))
    with pytest.raises(ProjectionsUnavailable, match="the disk refuses"):
        await hydration.load_state(replace(real.ports, queries=refuses), "s")
    await real.close()


async def test_a_branch_of_which_only_the_newest_message_is_in_memory_is_loaded(tmp_path: Path) -> None:
    real, mina = SessionsHarness(tmp_path, max_context_messages=5), Caller(owner="mina")
    await real.open()
    await real.supervisor.ask("s", CreateSession("mina", {}, 60, None, None), mina)

    async def talk(number: int, **fields: Any) -> list[str]:
        """One turn; returns the texts that the model was sent."""
        message = PostMessage(f"m{number}", f"r{number}", f"question {number}", Parameters(), **fields)
        result = await real.supervisor.ask("s", message, mina)
        await real.until(lambda: len(real.provider.calls) == number, "the model is asked")
        call = real.provider.calls[-1]
        call.given.put_nowait(f"answer {number}")
        call.given.put_nowait(Finish("stop", "hand-model"))
        assert result.reply is not None
        await result.reply.wait_end()
        return [one.content for one in call.messages]

    for number in (1, 2, 3):
        await talk(number)
    for number in range(4, 12):  # so many other beginnings that of the first branch only the last turn is kept
        await talk(number, parent_id=None)
    last_turns = ["question 2", "answer 2", "question 3", "answer 3", "question 12"]
    assert await talk(12, parent_id="r3") == last_turns
    await real.close()
