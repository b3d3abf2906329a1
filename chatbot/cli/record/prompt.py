"""The command prompt: the exact request behind a reply, rebuilt from the log alone."""

import argparse
from typing import Any

import msgspec
from msgspec import Struct

from chatbot.audit.model_calls import ModelCall, TextsErased, UnknownProtocol, build_request_body, read_model_calls
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.runtime.clock import timestamp
from events.catalogue import ReplyStarted
from events.log import EventLog

PAGE = 2_000  # events read at once, backwards from the log's end
PROVIDERS = ("midm", "openai", "embedded")


class Prompt(Struct, frozen=True):
    """A request and its context. `request` is the JSON body that was answered.

    For a reply that did not complete, the log does not say which parameters the model server refused: then `request`
    has all of them. `redacted_ids`: messages of the context that were redacted since; the model was sent their content.
    """

    session_id: str
    reply_id: str
    attempt: int
    position: int
    version: int
    recorded_at: str
    actor: str | None
    request_id: str | None
    cause: str | None
    node: str
    provider: str
    model: str
    context_ids: tuple[str, ...]
    request: dict[str, Any]
    redacted_ids: tuple[str, ...] = ()


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reply", required=True, metavar="ID", help="the assistant message's id")
    parser.add_argument("--session", metavar="ID", help="the reply's session: saves the search")
    parser.add_argument("--attempt", type=int, metavar="N", help="of a reply that was retried (default: the last)")
    parser.add_argument("--as", dest="protocol", choices=PROVIDERS, help="the protocol, if it is not recorded")
    parser.add_argument("--json", action="store_true", help="on one line")


async def prompt(context: CommandContext, options: argparse.Namespace) -> int:
    """Print the exact request that the model was sent for a reply, and who asked for it, when and where."""
    async with context.open_read_only() as log:
        session_id = options.session or await find_session_of_reply(log, options.reply)
        model_call: ModelCall | None = None
        if session_id is not None:
            async for call in read_model_calls(log, session_id):
                if call.started.reply_id == options.reply and options.attempt in (None, call.started.attempt):
                    model_call = call
    if model_call is None:
        where = f"session {options.session}" if options.session else "the log"
        which = "" if options.attempt is None else f", attempt {options.attempt}"
        raise CommandFailed(f"{where} has no reply {options.reply}{which} that a model was asked for, or it is erased")
    try:
        model_call.require_texts()
        shown = describe_call(model_call, options.protocol)
    except TextsErased as error:
        raise CommandFailed(str(error)) from error
    except UnknownProtocol as error:
        raise UsageError(f"{error}: name it with --as") from error
    if not model_call.started.model:
        context.print_note("the model was not known when the reply started: the one that answered is shown")
    if model_call.redacted_message_ids:
        redacted = ", ".join(model_call.redacted_message_ids)
        context.print_note(f"redacted since: message {redacted}; the model was sent what [redacted] stands for here")
    if options.json:
        context.print_json(shown)
    else:
        context.print_result(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    return 0


def describe_call(model_call: ModelCall, protocol: str | None = None) -> Prompt:
    """`protocol`: the provider whose request format is used; None: the recorded one. Raises UnknownProtocol."""
    recorded, started = model_call.recorded, model_call.started
    model = started.model or (model_call.completed.model if model_call.completed else "")
    return Prompt(
        session_id=recorded.stream_id,
        reply_id=started.reply_id,
        attempt=started.attempt,
        position=recorded.position,
        version=recorded.version,
        recorded_at=timestamp(recorded.recorded_at_us),
        actor=recorded.metadata.actor,
        request_id=recorded.metadata.request_id,
        cause=recorded.metadata.cause,
        node=started.node,
        provider=model_call.provider,
        model=model,
        context_ids=started.context_ids,
        request=build_request_body(model_call, protocol or model_call.provider, model),
        redacted_ids=model_call.redacted_message_ids,
    )


async def find_session_of_reply(log: EventLog, reply_id: str) -> str | None:
    """The session of this reply, searched for backwards from the log's end; None where there is none.

    The log has no index by reply. Raises LogUnavailable, UnknownEvent.
    """
    head = log.head().position
    progress = ProgressBar("searching", head)
    try:
        for end in range(head, 0, -PAGE):
            after = max(0, end - PAGE)
            for recorded in reversed(await log.read_all(after=after, limit=end - after)):
                if isinstance(recorded.event, ReplyStarted) and recorded.event.reply_id == reply_id:
                    return recorded.stream_id
            progress.reach(head - after)
    finally:
        progress.close()
    return None
