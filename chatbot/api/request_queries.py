"""Queries of requests: their parameters, within limits, and refused with the name of the one that is wrong."""

import re
from typing import TypeVar

from aiohttp import web

from chatbot.api.problems import RequestFault

Word = TypeVar("Word", bound=str)


def query_int(request: web.Request, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of the query string. Raises RequestFault if it is not within `lowest` and `highest`."""
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or not lowest <= int(text) <= highest:
        raise RequestFault(f"must be a whole number from {lowest} to {highest}", f"query.{name}")
    return int(text)


def query_choice(request: web.Request, name: str, allowed: tuple[Word, ...]) -> Word:
    """One of the words `allowed`; the first without the parameter. Raises RequestFault."""
    given = request.query.get(name, allowed[0])
    for word in allowed:
        if given == word:
            return word
    raise RequestFault(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}", f"query.{name}")


def check_query(request: web.Request, allowed: frozenset[str], prefix: str | None = None) -> None:
    """Refuse unknown parameters, rather than ignore a misspelt filter, and repeated ones, rather than ignore one.

    Raises RequestFault.
    """
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise RequestFault("is there more than once", f"query.{name[:64]}")
        if name not in allowed and not (prefix and name.startswith(prefix)):
            known = sorted(allowed) + ([f"{prefix}<key>"] if prefix else [])
            raise RequestFault(f"unknown parameter; known are {', '.join(known)}", f"query.{name[:64]}")
