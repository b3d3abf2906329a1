"""The command redact: removes the content of a message or one of its parts, through the service or in the files."""

import argparse

from chatbot.audit.receipt import receipt_of
from chatbot.audit.receipt_signature import sign_receipt
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure.erase import ERASURE_PENDING_POSTGRES, ERASURE_PENDING_SQLITE, IN_USE_HINT
from chatbot.cli.erasure.erase_criteria import add_reason_arguments, read_reason
from chatbot.cli.erasure.offline_service import open_offline_service
from chatbot.cli.erasure.receipt_command import add_signer_argument, read_signer_option
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.remedies import with_remedy
from chatbot.cli.service_client import ServiceAddress, add_service_arguments, open_service, read_detail, read_service
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, RedactMessage
from chatbot.sessions.message_redaction import MessageRedaction
from events.errors import LogInUse, LogUnavailable
from events.schema.parts import PARTS_MAX
from projections.errors import ProjectionError


def add_redact_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session_id", metavar="SESSION", help="a session that shows the message")
    parser.add_argument("message_id", metavar="MESSAGE", help="the message's id")
    parser.add_argument("--part", type=int, metavar="N", help="only this part of it, from 0 (default: all of it)")
    add_reason_arguments(parser)
    add_signer_argument(parser)
    add_service_arguments(parser, "redact")


async def redact(context: CommandContext, options: argparse.Namespace) -> int:
    """Remove the content of a message, or of one of its parts, for good, also from forks that show it.

    Prints the receipt of each session that shows it, the named one first, as lines of JSON; through the service only
    that one's. The same command once more prints the same receipts. Refused while a reply runs in one of the sessions,
    and under a legal hold.
    """
    if options.reason_code is None:
        raise UsageError("--reason-code is needed: it stands in place of what was redacted")
    if options.part is not None and not 0 <= options.part < PARTS_MAX:
        raise UsageError(f"--part is a number from 0 to {PARTS_MAX - 1}")
    reason_code, ticket = read_reason(options)
    command = RedactMessage(options.message_id.lower(), reason_code or "", options.part, ticket)
    address, signer = read_service(options), read_signer_option(options)
    if address is not None:
        if signer is not None:
            raise UsageError("--sign-with works on the files; a service signs with a key of its own, anchors.key_file")
        return await _ask_service(context, address, options.session_id.lower(), command)
    try:
        return await _redact(context, options.session_id.lower(), command, signer)
    except LogInUse as error:
        raise CommandFailed(IN_USE_HINT.format(fact=error), ExitCode.DATABASE) from error
    except ProjectionError as error:
        raise CommandFailed(with_remedy(error), ExitCode.DATABASE) from error


async def _redact(context: CommandContext, session_id: str, command: RedactMessage, signer: str | None) -> int:
    async with open_offline_service(context) as service:
        ports, log = service.ports, service.ports.log
        work = MessageRedaction(log, ports.queries, service.reader, service.supervisor.ask, ports.holds.version)
        try:
            recorded = await work.redact(session_id, command, SERVICE)
        except (rejections.Rejection, rejections.ActorFailed, LogUnavailable) as error:
            raise CommandFailed(f"nothing more was redacted: {with_remedy(error)}") from error
        for one in recorded:
            receipt = await receipt_of(log, one)
            if receipt is not None:
                context.print_json(receipt if signer is None else sign_receipt(receipt, signer))
        if log.erasure_pending:
            context.print_note(ERASURE_PENDING_POSTGRES if log.is_shared else ERASURE_PENDING_SQLITE)
        return 1 if log.erasure_pending else 0


async def _ask_service(
    context: CommandContext, address: ServiceAddress, session_id: str, command: RedactMessage
) -> int:
    given = {"reason_code": command.reason_code, "ticket": command.ticket, "part": command.part}
    body = {name: value for name, value in given.items() if value is not None}
    path = f"/api/sessions/{session_id}/messages/{command.message_id}/redact"
    async with open_service(address) as client, client.post(path, json=body) as answer:
        if answer.status != 200:
            raise CommandFailed(f"the service refuses: {await read_detail(answer)}")
        context.print_json(await answer.json())
    return 0
