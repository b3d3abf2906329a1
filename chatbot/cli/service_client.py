"""A command's HTTP client of a running service: its options, its key, and what goes wrong, in words."""

import argparse
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from msgspec import Struct

from chatbot.cli.exit_codes import CommandFailed, UsageError

TIMEOUT_S = 120.0  # for one answer: a deletion may copy a long history into forks
_URL = re.compile(r"https?://[^\s/?#]+/?")


class ServiceAddress(Struct, frozen=True):
    """The service's base URL and the API key for it; None where it needs none."""

    url: str
    key: str | None


def add_service_arguments(parser: argparse.ArgumentParser, action: str) -> None:
    """The options --url and --key. `action`: what the command does through the service, as in "erase"."""
    parser.add_argument(
        "--url", metavar="URL", help=f"{action} through the running service at URL, instead of in its files"
    )
    parser.add_argument(
        "--key",
        metavar="SECRET",
        help="with --url: the API key to use; - reads it from standard input, where other users of this machine cannot"
        " see it",
    )


def read_service(options: argparse.Namespace) -> ServiceAddress | None:
    """The service that the options name; None: they name none. Raises UsageError."""
    if not options.url:
        if options.key:
            raise UsageError("--key goes with --url: the files are open to everybody who can write them")
        return None
    check_url(options.url)
    return ServiceAddress(options.url, read_secret() if options.key == "-" else options.key)


def check_url(url: str) -> None:
    """Raises UsageError."""
    if not _URL.fullmatch(url):
        raise UsageError("--url is the service's address, such as http://127.0.0.1:8080")


def read_secret() -> str:
    """The secret, from one line of standard input; not in a thread, for which Ctrl-C would wait. Raises UsageError."""
    secret = sys.stdin.readline().strip()
    if not secret:
        raise UsageError("--key -: standard input has no line with the key")
    return secret


@asynccontextmanager
async def open_service(service: ServiceAddress, timeout_s: float = TIMEOUT_S) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose base URL is the service's; `timeout_s` is for one answer. Raises CommandFailed for what the block
    meets on the way there.
    """
    headers = {"Authorization": f"Bearer {service.key}"} if service.key else {}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(service.url, headers=headers, timeout=timeout) as client:
            yield client
    except aiohttp.ClientSSLError as error:
        raise CommandFailed(
            f"there is no secure connection to {service.url}: its certificate is not valid here, or it does not use TLS"
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise CommandFailed(f"nothing answers at {service.url}: does the service run there?") from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise CommandFailed(f"{service.url} does not answer as the service does: {error or 'too slow'}") from error


async def read_detail(answer: aiohttp.ClientResponse) -> str:
    """The service's reason for refusing."""
    try:
        return str((await answer.json())["detail"])
    except (ValueError, KeyError, aiohttp.ClientError):
        return f"status {answer.status}"
