"""The growing text and its readers."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.sessions.domain.commands import SERVICE
from chatbot.sessions.feeds.channels import wait_any
from chatbot.sessions.replies.reply import Outcome, Reply
from events.catalogue import Parameters
from events.errors import LogUnavailable


def reply() -> Reply:
    return Reply("m", "r", Parameters(), SERVICE)


def ended(content: str) -> Outcome:
    return Outcome(status="complete", content=content, version=3, created_at_us=0)


async def read(source: Reply, pauses: list[int]) -> str:
    """A reader that holds a cursor and sleeps between its looks as `pauses` tell (loop turns)."""
    text = ""
    while source.outcome is None or len(text) < source.length:
        if source.length == len(text):
            await wait_any(source.signal)
        text += source.since(len(text))
        for _ in range(pauses.pop(0) if pauses else 0):
            await asyncio.sleep(0)
    return text


@given(
    st.lists(st.text(alphabet="aé안😀\u0301", min_size=1, max_size=4), max_size=20),
    st.lists(st.lists(st.integers(0, 5), max_size=20), min_size=1, max_size=5),
)
def test_every_reader_gets_every_character_once_however_slow_it_is(pieces: list[str], readers: list[list[int]]) -> None:
    async def scene() -> list[str]:
        source = reply()
        reading = [asyncio.create_task(read(source, pauses)) for pauses in readers]
        for piece in pieces:
            source.grow(piece)
            await asyncio.sleep(0)
        source.end(ended(source.freeze().content))
        return await asyncio.gather(*reading)

    assert asyncio.run(scene()) == ["".join(pieces)] * len(readers)


@given(st.lists(st.text(max_size=5), max_size=10), st.integers(0, 60))
def test_the_text_after_any_offset_is_the_rest_of_the_whole(pieces: list[str], offset: int) -> None:
    async def scene() -> tuple[str, str]:
        source = reply()
        for piece in pieces:
            source.grow(piece)
        return source.since(min(offset, source.length)), source.text[min(offset, source.length) :]

    after, rest = asyncio.run(scene())
    assert after == rest


@given(st.lists(st.text(max_size=5), max_size=10), st.lists(st.text(max_size=5), max_size=10), st.integers(0, 99))
def test_a_text_that_was_compacted_reads_the_same_from_any_offset(
    before: list[str], after: list[str], offset: int
) -> None:
    async def scene() -> None:
        source = reply()
        for piece in before:
            source.grow(piece)
        source.compact()
        for piece in after:
            source.grow(piece)
        whole = "".join(before + after)
        assert (source.text, source.length) == (whole, len(whole))
        assert source.since(min(offset, len(whole))) == whole[min(offset, len(whole)) :]

    asyncio.run(scene())


async def test_nothing_grows_after_the_text_is_frozen() -> None:
    source = reply()
    source.grow("kept")
    assert source.freeze().content == "kept"
    source.grow(" lost")
    assert source.text == "kept"


async def test_a_reader_that_leaves_is_forgotten() -> None:
    source = reply()
    leaving = asyncio.create_task(source.wait_end())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait((leaving,))
    assert not source.signal.listeners


async def test_those_who_wait_are_told_when_the_end_cannot_be_recorded() -> None:
    source = reply()
    waiting = asyncio.create_task(source.wait_end())
    await asyncio.sleep(0)
    source.stall(LogUnavailable("the disk is full"))
    with pytest.raises(LogUnavailable):
        await waiting
