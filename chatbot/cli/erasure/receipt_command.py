"""The command receipt: prints the receipts of erased sessions, and checks receipts against the log and a signature."""

import argparse
import sys
from pathlib import Path

import msgspec
from msgspec import UNSET

from chatbot.audit.receipt import Receipt, read_receipt, receipt_of
from chatbot.audit.receipt_signature import check_receipt, sign_receipt
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.proof.keys import read_public_key, read_text_file
from chatbot.holds.hold_registry import HoldRegistry
from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.rejections import SessionHeld
from chatbot.sessions.ticket_erasure import erase_ticket
from events.catalogue import MESSAGE_REDACTED
from events.integrity import signed_checkpoint
from events.integrity.erased_versions import redacted_versions
from events.integrity.signed_checkpoint import InvalidCheckpoint
from events.log import EventLog
from events.record import Metadata, StoredRow

RECEIPT_BYTES_MAX = 65_536  # of one line
NOT_SIGNED = "it is not signed"
HOW_TO_SIGN = (
    "a service signs receipts with the key of anchors.key_file, the commands with --sign-with FILE, also afterwards:"
    " `chatbot receipt --session ID --sign-with FILE`. Without --key receipts are compared with the log alone"
)
EXPLAINED_BY = {"erasure": "session_deleted", "redaction": MESSAGE_REDACTED}
COMPARED = ("at", "events_erased", "reason", "reason_code", "ticket", "message_id", "part")
STATES_OTHERWISE = "the log says otherwise: {name}"
CONTENT_PAGE, CONTENT_PAGE_BYTES = 250, 2**20  # rows of a session read at once


def add_receipt_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", dest="sessions", nargs="+", metavar="ID", help="print the receipts of these")
    which.add_argument("--check", metavar="FILE", help="check the receipts in FILE, one in each line; - reads them")
    add_signer_argument(parser)
    parser.add_argument(
        "--forget-ticket",
        action="store_true",
        help="with --session: erase the ticket from the log first (of a file, while no service runs)",
    )
    parser.add_argument("--key", metavar="KEY", help="with --check: the public key that has signed, or its file")
    parser.add_argument(
        "--signature-only", action="store_true", help="with --check and --key: without the log, check the signature"
    )


def add_signer_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sign-with", type=Path, metavar="FILE", help="sign the receipts with this secret key of `chatbot keygen`"
    )


def read_signer_option(options: argparse.Namespace) -> str | None:
    """The secret key that --sign-with names; None: receipts are not signed. Raises UsageError."""
    if options.sign_with is None:
        return None
    signer = read_text_file(options.sign_with)
    try:
        signed_checkpoint.read_signer(signer)
    except InvalidCheckpoint as error:
        raise UsageError(f"--sign-with {options.sign_with}: {error}") from error
    return signer


async def receipt(context: CommandContext, options: argparse.Namespace) -> int:
    """Print the receipts of erased sessions, as `chatbot erase` did, or check receipts.

    A receipt is right if the log has its event, with its digest, which says the same, and nothing of the session's
    content before it; with --key also only if it is signed with that key. Works while the service runs. Exit code 1: a
    session is not erased, or a receipt is not right or not signed.
    """
    if options.sessions:
        if options.key or options.signature_only:
            raise UsageError("--key and --signature-only go with --check")
        ids = list(dict.fromkeys(one.lower() for one in options.sessions))
        return await _print_receipts(context, ids, read_signer_option(options), forget_ticket=options.forget_ticket)
    if options.sign_with is not None or options.forget_ticket:
        raise UsageError("--sign-with and --forget-ticket go with --session")
    if options.signature_only and not options.key:
        raise UsageError("--signature-only needs the public key: --key")
    verifier = read_public_key(options.key) if options.key else None
    receipts = _read_receipts(options.check)
    if options.signature_only:
        return _report(context, [(one, _find_signature_fault(one, verifier)) for one in receipts])
    async with context.open_read_only() as log:
        return _report(context, [(one, await _find_any_fault(log, one, verifier)) for one in receipts])


async def _print_receipts(
    context: CommandContext, session_ids: list[str], signer: str | None, *, forget_ticket: bool
) -> int:
    missing = 0
    async with context.open_to_append() if forget_ticket else context.open_read_only() as log:
        for session_id in session_ids:
            try:
                found = await (_forget_ticket(log, session_id) if forget_ticket else read_receipt(log, session_id))
            except SessionHeld as held:
                raise CommandFailed(str(held)) from held
            if found is None:
                missing += 1
                context.print_note(f"session {session_id} is not erased, or there is none")
            else:
                context.print_json(found if signer is None else sign_receipt(found, signer))
    return 1 if missing else 0


async def _forget_ticket(log: EventLog, session_id: str) -> Receipt | None:
    deleted = await erase_ticket(log, HoldRegistry(log), session_id, Metadata(cause="erasure"))
    return None if deleted is None else await receipt_of(log, deleted)


def _read_receipts(name: str) -> list[Receipt]:
    text = sys.stdin.read() if name == "-" else read_text_file(Path(name))
    receipts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            if len(line) > RECEIPT_BYTES_MAX:
                raise UsageError(f"--check {name}: line {number} is no receipt: it is too long")
            receipts.append(msgspec.json.decode(line, type=Receipt))
        except msgspec.MsgspecError as error:
            raise UsageError(f"--check {name}: line {number} is no receipt: {error}") from error
    if not receipts:
        raise UsageError(f"--check {name}: there is no receipt in it")
    return receipts


def _find_signature_fault(one: Receipt, verifier: str | None) -> str | None:
    """Why the receipt's signature is not good; None: it is, or none is asked for."""
    if verifier is None:
        return None
    if one.signature is UNSET:
        return NOT_SIGNED
    try:
        check_receipt(one, verifier)
    except InvalidCheckpoint as error:
        return str(error)
    return None


async def _find_any_fault(log: EventLog, one: Receipt, verifier: str | None) -> str | None:
    """A receipt that is not signed is compared with the log, too: that may show a worse fault."""
    fault = _find_signature_fault(one, verifier)
    return await find_fault(log, one) or fault if fault in (None, NOT_SIGNED) else fault


async def find_fault(log: EventLog, one: Receipt) -> str | None:
    """Why the log does not bear out the receipt; None: it does. Raises LogUnavailable."""
    if one.position is None or one.digest is None:
        return "it says no position and no digest"
    rows = await log.rows(after=one.position - 1, limit=1)
    if not rows or rows[0].position != one.position:
        return f"the log has no event at position {one.position}"
    row = rows[0]
    if (row.stream_id, row.digest.hex()) != (one.session_id, one.digest):
        return f"the event at position {one.position} of the log is another one"
    fault = await _find_false_statement(log, one, row)
    if fault is not None:
        return fault
    if one.kind == "redaction":
        return await _find_redaction_fault(log, row)
    after = 0
    while page := await log.stream_rows(one.session_id, after=after, limit=CONTENT_PAGE, bytes_max=CONTENT_PAGE_BYTES):
        for earlier in page:
            if earlier.version >= row.version:
                return None
            if earlier.data is not None:
                return f"the content of the event at position {earlier.position} is still there"
        after = page[-1].version
    return None


async def _find_false_statement(log: EventLog, one: Receipt, row: StoredRow) -> str | None:
    """What the receipt says otherwise than its event. Once that is erased, too, its type and time are what is left."""
    if row.type != EXPLAINED_BY.get(one.kind):
        return f"the event at position {row.position} of the log explains no such erasure"
    found = (await log.read_at([row.position])).get(row.position)
    stated = None if found is None else await receipt_of(log, found)
    if stated is None:
        return None if one.at == timestamp(row.recorded_at_us) else STATES_OTHERWISE.format(name="at")
    for name in COMPARED:
        if getattr(one, name) != getattr(stated, name):
            return STATES_OTHERWISE.format(name=name)
    return None


async def _find_redaction_fault(log: EventLog, redaction: StoredRow) -> str | None:
    """Of a redaction that a later one of the message has replaced, that one tells."""
    for version in redacted_versions(redaction):
        rows = await log.stream_rows(redaction.stream_id, after=version - 1, limit=1)
        if rows and rows[0].version == version and rows[0].data is not None:
            return f"the content of the event at position {rows[0].position} is still there"
    return None


def _report(context: CommandContext, checked: list[tuple[Receipt, str | None]]) -> int:
    faults = unsigned = 0
    for one, fault in checked:
        if fault == NOT_SIGNED:
            unsigned += 1
            context.print_result(f"NOT SIGNED: receipt of session {one.session_id}")
        elif fault is not None:
            faults += 1
            context.print_result(f"WRONG: receipt of session {one.session_id}: {fault}")
    rest = f", {unsigned:,} not signed" if unsigned else ""
    context.print_result(f"{len(checked) - faults - unsigned:,} of {len(checked):,} receipts are right{rest}")
    if unsigned:
        context.print_note(HOW_TO_SIGN)
    return 1 if faults or unsigned else 0
