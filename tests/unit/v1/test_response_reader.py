"""A response is sent in pieces, between which the service does other work."""

import asyncio
from typing import Any, cast

import pytest

from chatbot.api.openai_responses.object_ids import ResponseKey
from chatbot.api.openai_responses.response_events import EventView
from chatbot.api.openai_responses.response_reader import SLICE_CHARS, ResponseReader
from chatbot.api.streaming.response_stream import ResponseStream
from chatbot.sessions.domain.commands import SERVICE
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Parameters
from events.schema.parts import Reasoning, Text, flat
from tests.unit.v1.test_response_events import REPLY, REQUESTED, SESSION, ended, events, play

SLICES = 10


class Sent:
    """What is sent to the reader."""

    def __init__(self) -> None:
        self.data = b""

    async def send(self, data: bytes) -> None:
        self.data += data

    async def close(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("after", [-1, SLICES * SLICE_CHARS // 2])
@pytest.mark.parametrize("is_recorded", [True, False])
async def test_others_go_on_while_a_reader_catches_up(after: int, *, is_recorded: bool) -> None:
    said = (Reasoning("Hm. "), Text("a " * (SLICES * SLICE_CHARS // 2)))
    sent, unused = Sent(), cast(Any, None)
    stream, view = cast(ResponseStream, sent), EventView(REQUESTED, after)
    reader = ResponseReader(unused, unused, ResponseKey(SESSION, REPLY), view, unused, unused)
    reply = Reply("m", REPLY, Parameters(), SERVICE)
    reply.version = 3
    reply.grow_part("reasoning", flat(said[0]))
    reply.grow_part("text", flat(said[1]))
    work = reader._send_recorded(stream, ended(said)) if is_recorded else reader._catch_up(stream, reply)
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= SLICES
    whole = play(said, [])
    if is_recorded:
        assert events(sent.data) == whole[after + 1 :]
        return
    cursor = await task
    assert isinstance(cursor, ReaderCursor)
    assert (cursor.offset, cursor.part) == (reply.length, reply.last_part)
    made = [event for event in whole if "delta" in event][:-1]  # the last one may go on
    assert events(sent.data)[-1] == made[-1]
