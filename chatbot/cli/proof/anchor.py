"""The command anchor: sign the log's head, and write the checkpoint to targets that the operator cannot rewrite."""

import argparse
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct

from chatbot.anchors.anchor_target import AnchorTarget
from chatbot.anchors.anchor_writer import AnchorWriter, LogNotIntact, Outcome
from chatbot.anchors.targets.target_factory import open_target
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.proof.keys import read_text_file
from chatbot.config.anchor_targets import InvalidTarget
from events.integrity.signed_checkpoint import InvalidCheckpoint


class AnchorLine(Struct, frozen=True, omit_defaults=True):
    """A line of the result. `events` are those of the target's newest anchor by this key."""

    target: str
    outcome: str
    events: int | None = None
    reason: str | None = None


def add_anchor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the secret key that keygen made")
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="TARGET",
        help="a folder, s3://BUCKET/PREFIX, or the https:// URL of a witness; may be repeated",
    )


async def anchor(context: CommandContext, options: argparse.Namespace) -> int:
    """Sign the head, and write it to targets: a line of JSON for each. The log is verified first, and compared with the
    newest anchor of each target: nothing is signed if the log is not intact, or was rolled back or rewritten.
    """
    signer = read_text_file(options.key)
    async with AsyncExitStack() as stack:
        targets = await open_targets(stack, options.to)
        log = await stack.enter_async_context(context.open_read_only())
        if not log.head().position:
            raise CommandFailed("the log is empty: there is nothing to anchor yet")
        progress = ProgressBar("verifying", log.head().position)
        try:
            writer = AnchorWriter(log, targets, signer, progress=progress.reach)
            results = await writer.anchor()
        except InvalidCheckpoint as error:
            raise UsageError(f"{options.key}: {error}") from error
        except LogNotIntact as error:
            raise CommandFailed(str(error)) from error
        finally:
            progress.close()
    for state, result in zip(writer.states, results, strict=True):
        events = None if state.newest is None else state.newest.size
        context.print_json(AnchorLine(result.target, result.outcome.value, events, result.reason))
    outcomes = {result.outcome for result in results}
    if Outcome.CONTRADICTED in outcomes:
        named = next(result for result in results if result.outcome is Outcome.CONTRADICTED)
        raise CommandFailed(f"{named.target} contradicts the log: {named.reason}")
    if Outcome.FAILED in outcomes:
        named = next(result for result in results if result.outcome is Outcome.FAILED)
        raise CommandFailed(f"{named.target} has no anchor of this log's head: {named.reason}", ExitCode.TARGET)
    return 0


async def open_targets(stack: AsyncExitStack, texts: list[str]) -> list[AnchorTarget]:
    """The targets that `texts` name; `stack` closes them. Raises UsageError."""
    targets = []
    for text in texts:
        try:
            target = open_target(text)
        except InvalidTarget as error:
            raise UsageError(f"{text.partition('?')[0]}: {error}") from error
        stack.push_async_callback(target.close)
        targets.append(target)
    return targets
