"""Recorded turns: which ones a model is asked again, and how."""

import argparse
import asyncio
from collections.abc import AsyncIterator

from msgspec import Struct
from msgspec.structs import replace

from chatbot.audit.model_calls import ModelCall, read_model_calls
from chatbot.cli.progress_bar import ProgressBar
from chatbot.llm.provider import ModelMessage, PartsMessage, Provider
from events.catalogue import ReplyCompleted, Usage
from events.log import EventLog
from events.media import MediaStore
from events.schema.parts import Parts, Text, ToolCall, media_of, stored_parts, text_of

TURNS_DEFAULT = 20
PAGE = 2_000  # events read at once, backwards from the log's end


class TurnCount(Struct):
    """How many turns are selected, and the tokens that their recorded requests and replies had, as far as is known."""

    turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class AnswerSink:
    """Collects of an answer what is compared: its text, and the calls of tools, which nobody carries out."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._calls: dict[str, ToolCall] = {}
        self.text = self._pieces.append

    @property
    def parts(self) -> Parts:
        text = "".join(self._pieces)
        return ((Text(text),) if text else ()) + tuple(self._calls.values())

    def reasoning(self, piece: str) -> None: ...

    def refusal(self, piece: str) -> None: ...

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        known = self._calls.get(call_id, ToolCall(call_id, name, ""))
        self._calls[call_id] = ToolCall(call_id, name, known.arguments + arguments)

    def usage(self, usage: Usage) -> None: ...


async def send_again(provider: Provider, turn: ModelCall, model: str | None, store: MediaStore) -> ReplyCompleted:
    """Send one turn again, with the recorded context and parameters, and `model` in place of the recorded one.

    Raises LlmError, MediaMissing, LogUnavailable.
    """
    parameters = turn.started.parameters
    if model is not None:
        parameters = replace(parameters, model=model)
    messages, answer = await _with_files(turn.messages, store), AnswerSink()
    began_s = asyncio.get_running_loop().time()
    # not streamed: no client reads the text, and midm counts prompt tokens only then
    finish = await provider.stream(messages, parameters, answer, stream=False)
    duration_us = round((asyncio.get_running_loop().time() - began_s) * 1_000_000)
    return ReplyCompleted(
        turn.started.reply_id,
        text_of(answer.parts),
        finish.reason,
        finish.model,
        duration_us,
        finish.usage,
        parts=stored_parts(answer.parts),
    )


async def count_turns(log: EventLog, options: argparse.Namespace) -> TurnCount:
    """The turns of `select_turns`, read from the log alone."""
    counted = TurnCount()
    async for turn in select_turns(log, options):
        counted.turns += 1
        if turn.completed is not None and turn.completed.usage is not None:
            counted.prompt_tokens += turn.completed.usage.prompt_tokens
            counted.completion_tokens += turn.completed.usage.completion_tokens
    return counted


async def _with_files(messages: tuple[ModelMessage, ...], store: MediaStore) -> tuple[ModelMessage, ...]:
    """The messages with the bytes of their files. Raises MediaMissing, LogUnavailable."""
    found: list[ModelMessage] = []
    for message in messages:
        if isinstance(message, PartsMessage):
            names = {media.sha256 for media in media_of(message.parts)}
            files = {sha256: b"".join([piece async for piece in store.read(sha256)]) for sha256 in names}
            found.append(replace(message, media=files))
        else:
            found.append(message)
    return tuple(found)


async def select_turns(log: EventLog, options: argparse.Namespace) -> AsyncIterator[ModelCall]:
    """The selected completed turns, session by session. Memory: their ids and the texts of one session."""
    selected: dict[str, set[str] | None] = dict.fromkeys(options.session)
    if not selected:
        selected.update(await _find_newest(log, options.limit or TURNS_DEFAULT))
    for session_id, reply_ids in selected.items():
        async for call in read_model_calls(log, session_id):
            if call.completed is not None and (reply_ids is None or call.completed.reply_id in reply_ids):
                yield call


async def _find_newest(log: EventLog, limit: int) -> dict[str, set[str]]:
    """The ids of the newest completed replies, by session; the session with the oldest of them comes first."""
    found: list[tuple[str, str]] = []
    head = log.head().position
    progress = ProgressBar("searching", head)
    for end in range(head, 0, -PAGE):
        after = max(0, end - PAGE)
        page = await log.read_all(after=after, limit=end - after)
        found += [(one.stream_id, one.event.reply_id) for one in page[::-1] if isinstance(one.event, ReplyCompleted)]
        progress.reach(head - after)
        if len(found) >= limit:
            break
    progress.close()
    by_session: dict[str, set[str]] = {}
    for session_id, reply_id in reversed(found[:limit]):
        by_session.setdefault(session_id, set()).add(reply_id)
    return by_session
