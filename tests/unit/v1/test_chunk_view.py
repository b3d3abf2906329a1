"""The chunks of a streamed reply, joined as clients join them, are the completion."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.api.problems import Problem
from chatbot.api.responses import encode
from chatbot.api.streaming.reply_writer import ReplyWriter
from chatbot.api.streaming.response_stream import FlushScheduler
from chatbot.api.v1.chunk_view import ChunkView, encode_failure
from chatbot.api.v1.completion_views import completion_view
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.replies.reply import Outcome, Reply
from events.catalogue import Parameters, Usage
from tests.support.http.completion_requests import chunks_of, data_lines, joined

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
PIECES = st.one_of(
    st.tuples(st.sampled_from(["text", "reasoning", "refusal"]), TEXTS, st.just("")),
    st.tuples(st.just("tool_call"), st.one_of(st.just(""), TEXTS), st.sampled_from(["a", "b", "c"])),
)


class Collected:
    """Takes what a stream sends; `push` says that it has taken all."""

    def __init__(self) -> None:
        self.text = b""

    def push(self, data: bytes) -> bool:
        self.text += data
        return True

    async def drain(self) -> None: ...

    async def send(self, data: bytes) -> None:
        self.text += data

    async def close(self, data: bytes = b"") -> None:
        self.text += data


def outcome_of(reply: Reply, **fields: Any) -> Outcome:
    frozen = reply.freeze()
    known = {"status": "complete", "version": 5, "created_at_us": 7_000_000, "finish_reason": "stop", **fields}
    return Outcome(content=frozen.content, parts=frozen.parts, **known)


@given(st.lists(st.tuples(PIECES, st.booleans()), max_size=12), st.booleans())
async def test_the_chunks_joined_are_the_completion(
    pieces: list[tuple[tuple[Any, str, str], bool]], include_usage: bool
) -> None:
    reply = Reply("question", "reply", Parameters(), Caller())
    view = ChunkView("reply", "m", 7, "reasoning_content", include_usage=include_usage)
    writer, sent = ReplyWriter(FlushScheduler(), "session", reply, lambda _: None, view), Collected()
    reply.start(3, 7_000_000, "m")
    sent.push(view.start(3, 0))
    for (kind, text, call_id), is_read in pieces:
        if kind == "text" and reply.last_part < 0:
            reply.grow(text)
        else:
            reply.grow_part(kind, text, call_id, "f" if call_id else "")
        if is_read:
            sent.push(writer._encode_new_text())
    reply.end(outcome_of(reply, usage=Usage(1, 2, 3, cached_tokens=1)))
    sent.push(writer._encode_new_text() + writer._encode_end())
    assert reply.outcome is not None
    view_of_all = json.loads(encode(completion_view("reply", reply.outcome, "m", "reasoning_content")))
    (choice,) = view_of_all["choices"]
    chunks = chunks_of(sent.text.decode())
    message = joined(chunks)
    expected = choice["message"]
    assert message["content"] == (expected["content"] or "")
    assert message["refusal"] == (expected["refusal"] or "")
    assert message["reasoning_content"] == expected.get("reasoning_content", "")
    assert message["tool_calls"] == expected.get("tool_calls", [])
    assert {chunk["id"] for chunk in chunks} == {view_of_all["id"]}
    with_choices = [chunk for chunk in chunks if chunk["choices"]]
    assert with_choices[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert [chunk["usage"] for chunk in chunks if chunk.get("usage")] == [view_of_all["usage"]] * include_usage


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"status": "failed", "cause": "llm_timeout"}, "llm_timeout"),
        ({"status": "interrupted", "cause": "shutdown"}, "shutdown"),
        ({"status": "cancelled", "cause": "client"}, "reply_cancelled"),
    ],
)
def test_a_reply_that_does_not_complete_ends_with_an_error(fields: dict[str, Any], code: str) -> None:
    view = ChunkView("reply", "m", 7, "reasoning", include_usage=True)
    reply = Reply("question", "reply", Parameters(), Caller())
    (line,) = data_lines(view.end(outcome_of(reply, **fields), 0).decode())
    assert json.loads(line)["error"]["code"] == code


def test_an_error_of_the_service_is_a_chunk_of_its_own() -> None:
    (line,) = data_lines(encode_failure(Problem(503, "log-unavailable", "Cannot record just now", "why")).decode())
    error = json.loads(line)["error"]
    assert error == {"message": "why", "type": "server_error", "param": None, "code": "log_unavailable"}
