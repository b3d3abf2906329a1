from typing import Any

from chatbot.sessions.replies.recorded_text import RunningText, recorded_text
from events.catalogue import ReplyProgressed
from projections.folds.session import OpenReply
from tests.support.log.event_builders import created, posted, started
from tests.support.log.memory_log import MemoryLog

RUNNING = OpenReply("r", "m", version=3)


class CountingLog(MemoryLog):
    """Remembers after which versions it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[int] = []
        self.record("s", created(), posted("m", None, "r"), started("r", "m"))
        self.record("s", *(ReplyProgressed("r", 3 * n, f"<{n}>") for n in range(4)))  # versions 4 to 7

    async def read(self, stream_id: str, *, after: int = 0, **how: Any) -> Any:
        self.after.append(after)
        return await super().read(stream_id, after=after, **how)


async def test_what_is_known_of_a_running_reply_is_not_read_again() -> None:
    log = CountingLog()
    text = await recorded_text(log, "s", RUNNING, page=9, up_to=5)
    assert text == "<0><1>"
    log.after.clear()
    assert await recorded_text(log, "s", RUNNING, page=9, up_to=7, known=RunningText(5, text)) == "<0><1><2><3>"
    assert log.after == [5]
    assert await recorded_text(log, "s", RUNNING, page=9, up_to=5, known=RunningText(5, text)) == text
    assert log.after == [5]
