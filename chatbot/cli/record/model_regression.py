"""replay --against: a regression test of a model: sends recorded requests again and compares the answers."""

import argparse
import asyncio
import re
from collections.abc import AsyncIterator

from msgspec import Struct
from msgspec.structs import replace

from chatbot.audit import reply_comparison
from chatbot.audit.model_calls import ModelCall, read_model_calls
from chatbot.audit.reply_comparison import Comparison, compare
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.llm.provider import (
    LlmError,
    LlmUnavailable,
    ModelMessage,
    PartsMessage,
    Provider,
)
from events.catalogue import ReplyCompleted, Usage
from events.log import EventLog
from events.media import MediaMissing, MediaStore
from events.schema.parts import Parts, Text, ToolCall, media_of, stored_parts, text_of

CONCURRENCY_MAX = 64
TURNS_DEFAULT = 20
TURNS_MAX = 100_000
PAGE = 2_000  # events read at once, backwards from the log's end
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")


class Summary(Struct):
    """Counts of a run so far. `similarity` is the sum over the answered turns, `below` counts those under the
    threshold. `unreachable` says why no further turn is sent."""

    turns: int = 0
    identical: int = 0
    failed: int = 0
    below: int = 0
    similarity: float = 0.0
    unreachable: str = ""

    def count(self, one: Comparison, threshold: float) -> None:
        self.turns += 1
        self.failed += one.error is not None
        self.identical += one.identical
        self.similarity += one.similarity
        self.below += one.error is None and one.similarity < threshold

    @property
    def mean_similarity(self) -> float | None:
        answered = self.turns - self.failed
        return round(self.similarity / answered, 4) if answered else None


def add_regression_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--against", metavar="MODEL", help="a server's URL, or embedded, or settings: as configured")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"the newest N turns of the log (default: {TURNS_DEFAULT})"
    )
    parser.add_argument("--model", metavar="NAME", help="request this model instead of the recorded one")
    parser.add_argument("--concurrency", type=int, default=2, metavar="N", help="concurrent turns (default: 2)")
    parser.add_argument(
        "--fail-below", type=float, default=0.0, metavar="RATIO", help="exit with 1 if a turn is less similar"
    )


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


async def replay_against_model(context: CommandContext, options: argparse.Namespace) -> int:
    """Send the turns, report each, print a summary. A difference is no failure, an unreachable model is."""
    _check_options(options)
    summary = Summary()
    provider = context.provider(None if options.against == "settings" else options.against)
    interrupted = False
    try:
        async with context.open_read_only() as log:
            await _replay_turns(context, options, log, provider, summary)
    except asyncio.CancelledError:  # Ctrl-C: the summary so far is printed
        interrupted = True
    finally:
        await provider.close()
    _print_summary(context, options, summary)
    if interrupted:
        return ExitCode.INTERRUPTED
    if summary.unreachable:
        raise CommandFailed(
            f"{_describe_model(options.against)} cannot be reached, no more turns are asked: {summary.unreachable}"
        )
    if not summary.turns:
        raise CommandFailed("the log has no completed turn to ask again")
    return 1 if summary.failed or summary.below else 0


async def _replay_turns(
    context: CommandContext,
    options: argparse.Namespace,
    log: EventLog,
    provider: Provider,
    summary: Summary,
) -> None:
    turns, turns_lock = _select_turns(log, options), asyncio.Lock()

    async def replay_next() -> None:
        while not summary.unreachable:
            async with turns_lock:
                turn = await anext(turns, None)
            if turn is None:
                return
            one = await _replay_turn(provider, turn, options.model, summary, log.media)
            summary.count(one, options.fail_below)
            if options.json or options.format == "json":
                context.print_json(one)
            else:
                context.print_result(reply_comparison.render_comparison(one))

    async with asyncio.TaskGroup() as group:
        for _ in range(options.concurrency):
            group.create_task(replay_next())


async def _replay_turn(
    provider: Provider, turn: ModelCall, model: str | None, summary: Summary, store: MediaStore
) -> Comparison:
    """Send one turn again, with the recorded context and parameters. Never raises for what a model server does; sets
    `summary.unreachable` where there is none.
    """
    parameters = turn.started.parameters
    if model is not None:
        parameters = replace(parameters, model=model)
    if turn.erased_message_ids:
        return compare(turn, error=f"the text of message {', '.join(turn.erased_message_ids)} is erased")
    if turn.redacted_message_ids:
        return compare(turn, error=f"message {', '.join(turn.redacted_message_ids)} was redacted since")
    try:
        messages = await _with_files(turn.messages, store)
    except MediaMissing as error:
        return compare(turn, error=str(error))
    answer = AnswerSink()
    began_s = asyncio.get_running_loop().time()
    try:
        # not streamed: no client reads the text, and midm counts prompt tokens only then
        finish = await provider.stream(messages, parameters, answer, stream=False)
    except LlmError as error:
        if isinstance(error, LlmUnavailable) and error.status is None:  # an answer with a status came from a server
            summary.unreachable = str(error)
        return compare(turn, error=str(error))
    duration_us = round((asyncio.get_running_loop().time() - began_s) * 1_000_000)
    parts = answer.parts
    now = ReplyCompleted(
        turn.started.reply_id,
        text_of(parts),
        finish.reason,
        finish.model,
        duration_us,
        finish.usage,
        parts=stored_parts(parts),
    )
    return await asyncio.to_thread(compare, turn, now)


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


async def _select_turns(log: EventLog, options: argparse.Namespace) -> AsyncIterator[ModelCall]:
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


def _print_summary(context: CommandContext, options: argparse.Namespace, summary: Summary) -> None:
    mean = summary.mean_similarity
    figures = {
        "turns": summary.turns,
        "identical": summary.identical,
        "failed": summary.failed,
        "mean_similarity": mean,
    }
    if options.json or options.format == "json":
        context.print_json({"summary": figures | {"below": summary.below}})
        return
    below = f", {summary.below} less alike than {options.fail_below:g}" if options.fail_below else ""
    alike = "" if mean is None else f", mean similarity {mean:.2f}"
    context.print_result(f"{summary.turns} turns: {summary.identical} identical, {summary.failed} failed{alike}{below}")


def _describe_model(against: str) -> str:
    return {"settings": "the model of the settings", "embedded": "the embedded model"}.get(against, against)


def _check_options(options: argparse.Namespace) -> None:
    """Raises UsageError for options that make no sense."""
    if options.against not in ("embedded", "settings") and not _URL.fullmatch(options.against):
        raise UsageError("--against is a URL such as http://localhost:8000, or embedded, or settings")
    if options.session and options.limit is not None:
        raise UsageError("--limit counts turns of the whole log: leave it out, or --session")
    if not 1 <= options.concurrency <= CONCURRENCY_MAX:
        raise UsageError(f"--concurrency is 1 to {CONCURRENCY_MAX}")
    if not 1 <= (options.limit or TURNS_DEFAULT) <= TURNS_MAX or options.limit == 0:
        raise UsageError(f"--limit is 1 to {TURNS_MAX}")
    if not 0 <= options.fail_below <= 1:
        raise UsageError("--fail-below is a ratio from 0 to 1")
