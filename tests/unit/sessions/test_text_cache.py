from collections.abc import Callable, Sequence
from sys import getsizeof

from chatbot.sessions.feeds.text_cache import _ENVELOPE_BYTES, TextCache
from chatbot.sessions.replies.recorded_text import RecordedReply
from events.catalogue import MessagePosted
from events.record import RecordedEvent
from tests.support.log.event_builders import created, emptied
from tests.support.log.memory_log import MemoryLog

TEXT = "x" * 1_000
ROOM = _ENVELOPE_BYTES + getsizeof(TEXT)  # of one message


class CountingLog(MemoryLog):
    """Remembers which positions it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.while_read: Callable[[], None] | None = None
        self.record("s", created(), *(MessagePosted(f"m{n}", None, "user", TEXT) for n in range(4)))

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        self.asked += positions
        if self.while_read is not None:
            self.while_read()
            self.while_read = None
        return await super().read_at(positions)


async def test_a_text_is_read_from_the_log_once() -> None:
    log = CountingLog()
    texts = TextCache(log, 10 * ROOM)
    assert await texts.read([2, 3]) == {2: log.events[1], 3: log.events[2]}
    assert await texts.read([3, 4, 2]) == {n: log.events[n - 1] for n in (2, 3, 4)}
    assert log.asked == [2, 3, 4]


async def test_the_text_read_least_recently_makes_room() -> None:
    log = CountingLog()
    texts = TextCache(log, 2 * ROOM)
    for position in (2, 3, 2, 4, 2, 3):
        await texts.read([position])
    assert log.asked == [2, 3, 4, 3]


async def test_with_no_room_every_text_is_read_again_and_told_all_the_same() -> None:
    log = CountingLog()
    texts = TextCache(log, 0)
    for _ in range(2):
        assert set(await texts.read([2, 3])) == {2, 3}
    assert log.asked == [2, 3, 2, 3]


async def test_an_erased_text_and_one_that_does_not_exist_are_asked_for_again() -> None:
    log = CountingLog()
    log.erase_now("s", emptied())
    texts = TextCache(log, 10 * ROOM)
    for _ in range(2):
        found = await texts.read([2, 99])
        assert (found[2].event, set(found)) == (None, {2})
    assert log.asked == [2, 99, 2, 99]


async def test_what_is_dropped_is_read_again_and_nothing_read_meanwhile_is_kept() -> None:
    log = CountingLog()
    texts = TextCache(log, 10 * ROOM)
    await texts.read([2])
    log.while_read = texts.drop
    await texts.read([3])
    await texts.read([2, 3])
    assert log.asked == [2, 3, 2, 3]


async def test_what_was_read_of_a_running_reply_before_an_erasure_is_not_kept_after_it() -> None:
    texts = TextCache(CountingLog(), 10 * ROOM)
    erasures = texts.erasures
    texts.drop()
    texts.keep_running_reply("s", RecordedReply(3, "secret"), erasures)
    assert texts.running_reply("s", 1, 9) is None
    texts.keep_running_reply("s", RecordedReply(3, "public"), texts.erasures)
    assert texts.running_reply("s", 1, 9) == RecordedReply(3, "public")
    texts.keep_running_reply("s", None, texts.erasures)
    assert texts.running_reply("s", 1, 9) is None


async def test_with_no_room_nothing_of_a_running_reply_is_kept_either() -> None:
    texts = TextCache(CountingLog(), 0)
    texts.keep_running_reply("s", RecordedReply(3, "public"), texts.erasures)
    assert texts.running_reply("s", 1, 9) is None
