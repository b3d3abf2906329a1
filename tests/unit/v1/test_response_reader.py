"""A recorded response is sent in pieces, between which the service does other work."""

import asyncio
from typing import Any, cast

from chatbot.api.openai_responses.object_ids import ResponseKey
from chatbot.api.openai_responses.response_events import EventView
from chatbot.api.openai_responses.response_reader import SLICE_CHARS, ResponseReader
from chatbot.api.streaming.response_stream import ResponseStream
from chatbot.sessions.recorded_replies import RecordedTurn
from events.schema.parts import Text
from tests.unit.v1.test_response_events import REPLY, REQUESTED, SESSION, ended, events

SLICES = 50


class Sent:
    """What is sent to the reader."""

    def __init__(self) -> None:
        self.data = b""

    async def send(self, data: bytes) -> None:
        self.data += data

    async def close(self, data: bytes) -> None:
        self.data += data


async def test_others_go_on_while_a_reader_skips_what_it_has() -> None:
    text = "a " * (SLICES * SLICE_CHARS // 2)
    unused = cast(Any, None)

    async def find() -> RecordedTurn | None:
        raise AssertionError("it is given")

    for after in (-1, SLICES * SLICE_CHARS):
        turns = 0
        sent = Sent()
        view = EventView(REQUESTED, after)
        reader = ResponseReader(unused, unused, ResponseKey(SESSION, REPLY), view, unused, find)
        task = asyncio.ensure_future(reader._send_recorded(cast(ResponseStream, sent), ended((Text(text),))))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        await task
        assert turns >= (SLICES if after > 0 else 1)
        assert events(sent.data)[-1]["type"] == "response.completed"
