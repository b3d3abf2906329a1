"""The command key: adds, lists, rotates and revokes API keys in the log, or through a running service.

A log in a file has one writer, so while a service runs the command has to ask it (key_over_http.py). A log in
PostgreSQL has optimistic concurrency control between processes, so there it works while nodes run, too.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from msgspec import UNSET, UnsetType

from chatbot.audit.point_in_time import parse_time_bound
from chatbot.cli.access.key_change import Change
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.keys.key_errors import InvalidKey, KeyRejection
from chatbot.keys.key_registry import KeyRegistry
from chatbot.keys.key_state import OVERLAP_DEFAULT_S, UNCHANGED, AddKey, KeyCommand, RevokeKey, RotateKey
from chatbot.keys.key_views import KeyView, NewKeyView, view_keys, view_new_key
from chatbot.keys.scopes import SCOPES
from events.errors import LogInUse
from events.factory import now_us
from events.record import Metadata

NEVER = "never"
IN_USE_HINT = (
    "{fact}: a running service is the only one that may write. Either stop it, or ask it with a key of the scope admin:"
    " --url http://its-address:port --key - (auth.admins in the settings gives a configured key that scope)"
)
OPTIONS = {"name": "name", "scopes": "--scope", "expires_at": "--expires", "overlap_seconds": "--overlap"}


class Keys(Protocol):
    """Where the keys are: in the log, or behind a running service. All raise CommandFailed."""

    async def list(self) -> list[KeyView]: ...

    async def add(self, change: Change) -> NewKeyView: ...

    async def rotate(self, change: Change) -> NewKeyView: ...

    async def revoke(self, name: str) -> None: ...


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", description="Add a key. Prints its secret on standard output, this once.")
    add.add_argument("name", help="the owner of the sessions that are made with it: 1 to 64 of a-z 0-9 _ -")
    add.add_argument(
        "--scope", metavar="SCOPES", required=True, help=f"what it may do, separated by commas: {', '.join(SCOPES)}"
    )
    add.add_argument("--expires", metavar="DATE", help="a day, or a time with its zone; default: never")
    rotate = actions.add_parser("rotate", description="Give a key a new secret, and print it on standard output.")
    rotate.add_argument("name", help="also of a key that was revoked")
    rotate.add_argument(
        "--overlap",
        metavar="SECONDS",
        type=int,
        default=OVERLAP_DEFAULT_S,
        help=f"for which earlier secrets stay valid (default {OVERLAP_DEFAULT_S}); 0 if one has leaked",
    )
    rotate.add_argument("--scope", metavar="SCOPES", help="other scopes than before, for all its secrets")
    rotate.add_argument("--expires", metavar="DATE", help=f"another day or time than before, or {NEVER}")
    revoke = actions.add_parser("revoke", description="Let no secret of a key be valid any more.")
    revoke.add_argument("name")
    listing = actions.add_parser("list", description="List the keys, without their secrets.")
    listing.add_argument("--json", action="store_true", help="as lines of JSON")
    for one in (add, rotate, revoke, listing):
        one.add_argument("--url", metavar="URL", help="through the running service at URL, instead of in the log")
        one.add_argument(
            "--key",
            metavar="SECRET",
            help="with --url: a key with the scope admin; - reads it from standard input, where other users of this"
            " machine cannot see it",
        )


async def key(context: CommandContext, options: argparse.Namespace) -> int:
    """Add, list, rotate and revoke API keys.

    A secret is printed once, on standard output, and stored as its SHA-256 only. A change is in force in every process
    of the service within a second. Exit code 0: done. 1: refused, with the reason.
    """
    try:
        async with _open(context, options) as keys:
            await _act(context, keys, options)
    except LogInUse as error:
        raise CommandFailed(IN_USE_HINT.format(fact=error), ExitCode.DATABASE) from error
    return 0


async def _act(context: CommandContext, keys: Keys, options: argparse.Namespace) -> None:
    match options.action:
        case "list":
            _print_keys(context, await keys.list(), as_json=options.json)
        case "revoke":
            await keys.revoke(options.name)
            context.print_note(f"the key {options.name} is revoked")
        case "add":
            expires = _check_time(options.expires, UNSET)
            _print_secret(context, await keys.add(Change(options.name, _scopes(options.scope), expires)))
        case _:
            change = Change(options.name, _scopes(options.scope), _check_time(options.expires, UNSET), options.overlap)
            _print_secret(context, await keys.rotate(change))


def _open(context: CommandContext, options: argparse.Namespace) -> AbstractAsyncContextManager[Keys]:
    if options.url or options.key:
        from chatbot.cli.access.key_over_http import open_remote_keys  # noqa: PLC0415  an HTTP client
        from chatbot.cli.service_client import read_service  # noqa: PLC0415  likewise

        if service := read_service(options):
            return open_remote_keys(service)
    return _open_log_keys(context, read_only=options.action == "list")


def _scopes(text: str | None) -> tuple[str, ...]:
    return tuple(one.strip() for one in (text or "").split(",") if one.strip())


def _check_time(text: str | None, absent: UnsetType) -> str | UnsetType | None:
    """`text`, None for `never`. Raises UsageError."""
    if text is None:
        return absent
    if text == NEVER:
        return None
    try:
        parse_time_bound(text, is_end=True)
    except ValueError as error:
        raise UsageError(f"--expires {error}") from error
    return text


@asynccontextmanager
async def _open_log_keys(context: CommandContext, *, read_only: bool) -> AsyncIterator[Keys]:
    """`read_only`: also while a service runs. Raises LogUnusable (LogInUse where a service runs)."""
    log = await context.open_log(context.settings.database.place, read_only=read_only)
    try:
        registry = KeyRegistry(context.settings.auth, log, now_us)
        await registry.refresh()
        yield LogKeys(registry)
    finally:
        await log.close()


class LogKeys:
    """The keys in a log that is open here."""

    def __init__(self, registry: KeyRegistry) -> None:
        self._registry = registry

    async def list(self) -> list[KeyView]:
        return view_keys(self._registry, now_us())

    async def add(self, change: Change) -> NewKeyView:
        expires_us = _parsed(change.expires)
        return await self._change(AddKey(change.name, change.scopes, None if expires_us == UNCHANGED else expires_us))

    async def rotate(self, change: Change) -> NewKeyView:
        return await self._change(RotateKey(change.name, change.overlap_s, change.scopes, _parsed(change.expires)))

    async def revoke(self, name: str) -> None:
        try:
            await self._registry.change(RevokeKey(name), Metadata(cause="operator"))
        except KeyRejection as error:
            raise CommandFailed(str(error)) from error

    async def _change(self, command: KeyCommand) -> NewKeyView:
        try:
            state, secret = await self._registry.change(command, Metadata(cause="operator"))
        except InvalidKey as error:
            raise UsageError(f"{OPTIONS[error.field]}: {error}") from error
        except KeyRejection as error:
            raise CommandFailed(str(error)) from error
        return view_new_key(state, secret, self._registry, now_us())


def _parsed(expires: str | UnsetType | None) -> int | None:
    if expires is UNSET:
        return UNCHANGED
    return None if expires is None else parse_time_bound(expires, is_end=True)


def _print_secret(context: CommandContext, view: NewKeyView) -> None:
    """The secret alone on standard output, so that a script can take it; what people want to know beside it."""
    until = f"until {view.expires_at}" if view.expires_at else "until it is revoked"
    context.print_note(f"the key {view.name}, with the scopes {', '.join(view.scopes)}, is valid {until}.")
    for earlier in view.earlier:
        context.print_note(f"The earlier secret {earlier.prefix}... is valid until {earlier.valid_until}.")
    context.print_note("This is its secret; it is not shown again:")
    context.print_result(view.secret)


def _print_keys(context: CommandContext, views: list[KeyView], *, as_json: bool) -> None:
    if as_json:
        for view in views:
            context.print_json(view)
        return
    rows = [("NAME", "STATUS", "SCOPES", "PREFIX", "EXPIRES", "SOURCE")]
    rows += [
        (one.name, one.status, ",".join(one.scopes), one.prefix or "-", one.expires_at or "-", one.source)
        for one in views
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        context.print_result("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if not views:
        context.print_note("there are no keys: everyone who can connect may use the service")
