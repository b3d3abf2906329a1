"""Checks texts for typical mistakes: quotes in a value, a variable that was not replaced.

White space around a text is removed. Other remains of a shell, a .env file or a Kubernetes secret are refused: with an
extra quote no client could use an API key, and a path would name a new, empty file.
"""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\u2060\ufeff]")  # and other invisible characters
_ONE_VARIABLE = re.compile(
    r"\$\{[^}]*\}|\$\([^)]*\)|\$[A-Z_][A-Z0-9_]*|\{\{.*\}\}"
)  # in lower case it may be a password
_VARIABLE = re.compile(r"\$\{|\$\(|\$[A-Za-z_]|\{\{")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # one letter would be a drive


def strip_texts(value: Any) -> Any:
    """`value`, a setting's, without white space around each of its texts."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [strip_texts(one) for one in value]
    if isinstance(value, dict):
        return {strip_texts(name): strip_texts(one) for name, one in value.items()}
    return value


def find_mistake(value: Any, variable: str) -> str | None:
    """The mistake in one of the texts of `value`, which may come from the environment's `variable`; None if there is
    none. Never quotes the text, which may be a secret.
    """
    return next((fault for text in _texts(value) if (fault := text_mistake(text, variable))), None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts(name)
            yield from _texts(one)


def text_mistake(text: str, variable: str) -> str | None:
    """As find_mistake(), for one text without white space around it."""
    if _CONTROL.search(text):
        return "it holds a line break or another character that cannot be seen"
    if len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES:
        return "there are quotes around it: leave them out, or let the shell or .env file take them away"
    if text and text.strip(QUOTES) == "":
        return "it is nothing but quotes"
    if _ONE_VARIABLE.fullmatch(text):
        return "it is a variable that nobody has replaced"
    if text.startswith(f"{variable}="):
        return f"it begins with {variable}=: give the value alone"
    return None


def path_mistake(path: str) -> str | None:
    """Why `path` cannot be the intended file; None if it can."""
    if set(path) & set(QUOTES) & {path[:1], path[-1:]}:
        return "there is a quote at one end of it"
    if scheme := _SCHEME.match(path):
        return f"{scheme[1]}: is no part of a path (for a file of that name write ./{scheme[0]}...)"
    if PurePath(path).parts[:1] and PurePath(path).parts[0].startswith("~"):
        return "a ~ is not replaced here: write the folder's whole path"
    if _VARIABLE.search(path):
        return "variables are not replaced here: write the folder's whole path"
    return None


def host_mistake(host: str) -> str | None:
    """Why `host` cannot be a name or address; None if it can."""
    if "://" in host or "/" in host:
        return "a host is a name or an address alone, without scheme and path"
    if host.count(":") == 1:
        return "a host is a name or an address alone: the port has a setting of its own"
    if host.startswith("["):
        return "an IPv6 address is written without brackets here"
    if re.search(r"[^\w.:%-]", host) or set(host) & set(QUOTES):
        return "no host name has such characters"
    return None
