"""The command hold: legal holds, on the files while no service runs, on a log in PostgreSQL, or through the service."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from chatbot.api.erasure.erasure_bodies import REASON_MAX_CHARS, ForgottenView, hold_view
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure.erase_criteria import parse_entries
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.service_client import ServiceAddress, add_service_arguments, open_service, read_detail, read_service
from chatbot.holds.hold_registry import HoldNotFound, HoldRegistry, TooManyHolds
from chatbot.runtime.clock import timestamp
from chatbot.runtime.counted_noun import counted
from chatbot.runtime.ids import Ids
from chatbot.sessions.domain.reasons import find_ticket_fault
from events.catalogue import ERASURE_TYPES, HoldAdded, HoldReleased
from events.errors import LogInUse
from events.log import EventLog
from events.record import Metadata

CAUSE = "hold"  # what is recorded in the envelope
IN_USE_HINT = (
    "{fact}: a running service is the only one that may write. Ask it: --url http://its-address:port, with --key -"
    " where it asks for API keys (of one with the scope hold)"
)


def add_hold_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="add a hold", description="Keep sessions from being erased until the release.")
    which = add.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", metavar="ID", help="this session")
    which.add_argument("--owner", metavar="NAME", help="all sessions of this API key's name")
    which.add_argument(
        "--metadata", nargs="+", metavar="NAME=VALUE", help="sessions that have, had or get all of these entries"
    )
    release = actions.add_parser("release", help="end a hold", description="End a hold.")
    release.add_argument("hold_id", metavar="HOLD", help="its id, as `list` shows it")
    for one in (add, release):
        one.add_argument(
            "--reason", required=True, metavar="TEXT", help="why: told to those who are refused an erasure"
        )
        one.add_argument("--ticket", metavar="TEXT", help="a number of your own")
    listing = actions.add_parser("list", help="the holds in force", description="Print the holds in force.")
    forget = actions.add_parser(
        "forget",
        help="erase what the log says of released holds",
        description="Erase what the log says of released holds.",
    )
    for one in (add, release, listing, forget):
        add_service_arguments(one, "do it")


async def hold(context: CommandContext, options: argparse.Namespace) -> int:
    """Add, list, release and forget legal holds. Nothing of a session under a hold is erased.

    Prints holds as lines of JSON. Exit code 1: the session is erased already, or there is no such hold.
    """
    service = read_service(options)
    if options.action in ("add", "release"):
        _check_texts(options)
    if service is not None:
        return await _ask_service(context, options, service)
    try:
        opened = context.open_read_only() if options.action == "list" else context.open_to_append()
        async with opened as log:
            return await _ACTIONS[options.action](context, options, log)
    except LogInUse as error:
        raise CommandFailed(IN_USE_HINT.format(fact=error), ExitCode.DATABASE) from error
    except (HoldNotFound, TooManyHolds) as error:
        raise CommandFailed(str(error)) from error


def _check_texts(options: argparse.Namespace) -> None:
    """Raises UsageError."""
    if not options.reason.strip() or len(options.reason) > REASON_MAX_CHARS:
        raise UsageError(f"--reason has 1 to {REASON_MAX_CHARS} characters")
    fault = find_ticket_fault(options.ticket)
    if fault is not None:
        raise UsageError(f"--ticket: {fault}")


def _added(options: argparse.Namespace, hold_id: str) -> HoldAdded:
    session_id = None if options.session is None else options.session.lower()
    metadata = None if options.metadata is None else parse_entries(options.metadata)
    return HoldAdded(hold_id, options.reason, options.ticket, session_id, options.owner, metadata)


async def _add(context: CommandContext, options: argparse.Namespace, log: EventLog) -> int:
    added = _added(options, Ids().uuid())
    if added.session_id is not None and not await log.read(added.session_id, limit=1):
        raise CommandFailed(f"there is no session {added.session_id}")
    held = await HoldRegistry(log).add(added, Metadata(cause=CAUSE))
    context.print_json(hold_view(held))
    if added.session_id is not None:
        newest = await log.read(added.session_id, limit=1, backwards=True)
        if newest[0].type in ERASURE_TYPES:
            context.print_note(f"session {added.session_id} is erased already: its content is gone")
            return 1
    return 0


async def _list(context: CommandContext, options: argparse.Namespace, log: EventLog) -> int:
    state = await HoldRegistry(log).read()
    for held in state.holds.values():
        context.print_json(hold_view(held))
    _note_count(context, len(state.holds), state.released)
    return 0


async def _release(context: CommandContext, options: argparse.Namespace, log: EventLog) -> int:
    released = HoldReleased(options.hold_id, options.reason, options.ticket)
    context.print_json(hold_view(await HoldRegistry(log).release(released, Metadata(cause=CAUSE))))
    return 0


async def _forget(context: CommandContext, options: argparse.Namespace, log: EventLog) -> int:
    registry = HoldRegistry(log)
    released = (await registry.read()).released
    recorded = await registry.forget(Metadata(cause=CAUSE))
    if recorded is None:
        context.print_json(ForgottenView(0))
        return 0
    (row,) = await log.rows(after=recorded.position - 1, limit=1)
    at = timestamp(recorded.recorded_at_us)
    context.print_json(ForgottenView(released, at, recorded.position, row.digest.hex()))
    return 0


Action = Callable[[CommandContext, argparse.Namespace, EventLog], Awaitable[int]]
_ACTIONS: dict[str, Action] = {"add": _add, "list": _list, "release": _release, "forget": _forget}


def _note_count(context: CommandContext, holds: int, released: int) -> None:
    rest = (
        f"; the log describes {counted(released, 'released one')} (`chatbot hold forget` erases that)"
        if released
        else ""
    )
    context.print_note(f"{counted(holds, 'hold is', 'holds are')} in force{rest}")


async def _ask_service(context: CommandContext, options: argparse.Namespace, service: ServiceAddress) -> int:
    async with open_service(service) as client:
        if options.action == "list":
            listed = await _ask(client, "GET", "/api/holds")
            for held in listed["holds"]:
                context.print_json(held)
            _note_count(context, len(listed["holds"]), listed["released"])
            return 0
        body = None
        path = "/api/holds/forget"
        if options.action == "add":
            added, path = _added(options, ""), "/api/holds"
            what = {"session_id": added.session_id, "owner": added.owner, "metadata": added.metadata}
            body = {name: value for name, value in what.items() if value is not None}
        if options.action == "release":
            path, body = f"/api/holds/{options.hold_id}/release", {}
        if body is not None:
            body |= {"reason": options.reason, **({} if options.ticket is None else {"ticket": options.ticket})}
        answer = await _ask(client, "POST", path, body)
        context.print_json(answer)
        if answer.get("session_status") == "deleted":
            context.print_note(f"session {answer['session_id']} is erased already: its content is gone")
            return 1
    return 0


async def _ask(
    client: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The service's answer. Raises CommandFailed."""
    async with client.request(method, path, json=body) as answer:
        if answer.status not in (200, 201):
            raise CommandFailed(f"the service refuses: {await read_detail(answer)}")
        found: dict[str, Any] = await answer.json()
        return found
