"""replay --against: a regression test of a model: sends recorded requests again and compares the answers.

First the recorded model answers each request again, several times: how much its own answers differ is the noise band
(chatbot/audit/noise_band.py), and only answers of the new model that lie outside it are shown.
"""

import argparse
import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from chatbot.audit.model_calls import ModelCall
from chatbot.audit.noise_band import TurnSample, is_outside
from chatbot.audit.reply_comparison import Comparison, answer_similarity, compare, render_comparison
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.record.recorded_turns import TURNS_DEFAULT, count_turns, select_turns, send_again
from chatbot.cli.record.regression_summary import RunSummary, print_summary, write_html
from chatbot.llm.provider import LlmError, LlmUnavailable, Provider
from events.log import EventLog
from events.media import MediaMissing

CONCURRENCY_MAX = 64
TURNS_MAX = 100_000
REPEATS_DEFAULT, REPEATS_MAX = 3, 100
CALLS_DEFAULT = 1_000  # more cost money or hours: they have to be allowed
SIGNIFICANCE_DEFAULT = 0.05
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")


class Models(Struct, frozen=True):
    """The model that is tested, and the recorded one, asked `repeats` times for each turn; None: not at all."""

    new: Provider
    recorded: Provider | None
    repeats: int


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
    parser.add_argument(
        "--repeats",
        type=int,
        default=REPEATS_DEFAULT,
        metavar="N",
        help=f"answers of the recorded model to each turn, for the noise band (default: {REPEATS_DEFAULT}; 0: no band)",
    )
    parser.add_argument(
        "--baseline", default="settings", metavar="MODEL", help="where the recorded model is (default: settings)"
    )
    parser.add_argument(
        "--significance",
        type=float,
        default=SIGNIFICANCE_DEFAULT,
        metavar="RATIO",
        help="exit with 1 if chance puts so many turns outside the band with at most this probability"
        f" (default: {SIGNIFICANCE_DEFAULT:g})",
    )
    parser.add_argument(
        "--calls-max",
        type=int,
        default=CALLS_DEFAULT,
        metavar="N",
        help=f"refuse more calls (default: {CALLS_DEFAULT})",
    )
    parser.add_argument("--all", action="store_true", help="show turns inside the noise band, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the result to a new HTML file, too")


async def replay_against_model(context: CommandContext, options: argparse.Namespace) -> int:
    """Send the turns, report each, print a summary. A difference is no failure, an unreachable model is."""
    _check_options(options)
    summary = RunSummary(options.repeats)
    interrupted = False
    async with AsyncExitStack() as stack:
        models = _open_models(context, options, stack)
        try:
            async with context.open_read_only() as log:
                await _announce(context, options, log)
                await _replay_turns(context, options, log, models, summary)
        except asyncio.CancelledError:  # Ctrl-C: the summary so far is printed
            interrupted = True
    print_summary(context, options, summary)
    if options.html is not None and summary.turns:
        write_html(options, summary)
    if interrupted:
        return ExitCode.INTERRUPTED
    if summary.unreachable:
        raise CommandFailed(summary.unreachable)
    if not summary.turns:
        raise CommandFailed("the log has no completed turn to ask again")
    return 1 if summary.failed or summary.below or summary.is_worse_than_noise(options.significance) else 0


def _open_models(context: CommandContext, options: argparse.Namespace, stack: AsyncExitStack) -> Models:
    def opened(name: str) -> Provider:
        provider = context.provider(None if name == "settings" else name)
        stack.push_async_callback(provider.close)
        return provider

    new = opened(options.against)
    if not options.repeats:
        return Models(new, None, 0)
    return Models(new, new if options.baseline == options.against else opened(options.baseline), options.repeats)


async def _announce(context: CommandContext, options: argparse.Namespace, log: EventLog) -> None:
    """Say how much will be asked, before anything is. Raises UsageError beyond --calls-max."""
    counted = await count_turns(log, options)
    each = options.repeats + 1
    calls = counted.turns * each
    asked = f"{counted.turns:,} turns: {calls:,} calls to models"
    if options.repeats:
        asked += (
            f", {counted.turns * options.repeats:,} of them to {describe_model(options.baseline)} for the noise band"
        )
    tokens = f"about {counted.prompt_tokens * each:,} tokens read and {counted.completion_tokens * each:,} written"
    if calls > options.calls_max:
        raise UsageError(f"{asked}, {tokens}: allow them with --calls-max {calls}, or ask less with --limit, --repeats")
    if options.repeats and counted.turns:
        context.print_note(f"{asked}, {tokens}")


async def _replay_turns(
    context: CommandContext, options: argparse.Namespace, log: EventLog, models: Models, summary: RunSummary
) -> None:
    turns, turns_lock = select_turns(log, options), asyncio.Lock()

    async def replay_next() -> None:
        while not summary.unreachable:
            async with turns_lock:
                turn = await anext(turns, None)
            if turn is None:
                return
            one = await _replay_turn(log, models, turn, options, summary)
            if one is None:
                return
            summary.count(one, options.fail_below)
            is_shown = options.all or one.outside is not False
            if is_shown and (options.json or options.format == "json"):
                context.print_json(one)
            elif is_shown:
                context.print_result(render_comparison(one))

    async with asyncio.TaskGroup() as group:
        for _ in range(options.concurrency):
            group.create_task(replay_next())


async def _replay_turn(
    log: EventLog, models: Models, turn: ModelCall, options: argparse.Namespace, summary: RunSummary
) -> Comparison | None:
    """Ask the recorded model, then the new one. Never raises for what a model server does; sets `summary.unreachable`
    where there is none. None: the recorded model cannot be reached.
    """
    if turn.erased_message_ids or turn.completed is None:
        return compare(turn, error=f"the text of message {', '.join(turn.erased_message_ids)} is erased")
    if turn.redacted_message_ids:
        return compare(turn, error=f"message {', '.join(turn.redacted_message_ids)} was redacted since")
    noise: list[float] = []
    if models.recorded is not None:
        try:
            for _ in range(models.repeats):
                again = await send_again(models.recorded, turn, None, log.media)
                noise.append(await asyncio.to_thread(answer_similarity, turn.completed, again))
        except (LlmError, MediaMissing) as error:
            if _is_unreachable(error):
                summary.unreachable = (
                    f"{describe_model(options.baseline)}, the recorded model, cannot be reached: {error}. Name it with"
                    " --baseline, or leave the noise band out with --repeats 0"
                )
                return None
            return compare(turn, error=f"the recorded model failed: {error}")
    try:
        now = await send_again(models.new, turn, options.model, log.media)
    except (LlmError, MediaMissing) as error:
        if _is_unreachable(error):
            where = describe_model(options.against)
            summary.unreachable = f"{where} cannot be reached, no more turns are asked: {error}"
        return compare(turn, error=str(error))
    one = await asyncio.to_thread(compare, turn, now)
    if not noise:
        return one
    sample = TurnSample(one.session_id, one.similarity, tuple(noise))
    summary.samples.append(sample)
    return replace(one, noise=sample.noise, outside=is_outside(one.similarity, noise))


def _is_unreachable(error: Exception) -> bool:
    """An answer with a status came from a server."""
    return isinstance(error, LlmUnavailable) and error.status is None


def describe_model(name: str) -> str:
    return {"settings": "the model of the settings", "embedded": "the embedded model"}.get(name, name)


def _check_options(options: argparse.Namespace) -> None:
    """Raises UsageError for options that make no sense."""
    for option, name in (("--against", options.against), ("--baseline", options.baseline)):
        if name not in ("embedded", "settings") and not _URL.fullmatch(name):
            raise UsageError(f"{option} is a URL such as http://localhost:8000, or embedded, or settings")
    if options.session and options.limit is not None:
        raise UsageError("--limit counts turns of the whole log: leave it out, or --session")
    if not 1 <= options.concurrency <= CONCURRENCY_MAX:
        raise UsageError(f"--concurrency is 1 to {CONCURRENCY_MAX}")
    if not 1 <= (options.limit or TURNS_DEFAULT) <= TURNS_MAX or options.limit == 0:
        raise UsageError(f"--limit is 1 to {TURNS_MAX}")
    if not 0 <= options.repeats <= REPEATS_MAX:
        raise UsageError(f"--repeats is 0 to {REPEATS_MAX}")
    for option, ratio in (("--fail-below", options.fail_below), ("--significance", options.significance)):
        if not 0 <= ratio <= 1:
            raise UsageError(f"{option} is a ratio from 0 to 1")
    if options.html is not None and options.html.exists():
        raise UsageError(f"{options.html} exists: the result never replaces another file")
