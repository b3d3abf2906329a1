"""Parses a .env file: NAME=value lines as in a shell, without substitution or execution.

    export NAME=value        # a comment needs a space before it
    NAME='taken literally'
    NAME="with \\n, \\r, \\t, \\", \\\\ and \\$"

A later line of the same name wins. No $NAME is replaced and no value spans lines.
"""

import re

_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<rest>.*)", re.DOTALL)
_COMMENT = re.compile(r"\s*(?:\s#.*)?", re.DOTALL)
_SINGLE = re.compile(r"'(?P<value>[^']*)'")
_DOUBLE = re.compile(r'"(?P<value>(?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


class DotenvError(Exception):
    """A .env file cannot be read. `faults` are all of its faults, each with its line number and never with a value."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def parse_dotenv(text: str) -> dict[str, str]:
    """The values by name. Raises DotenvError."""
    values: dict[str, str] = {}
    faults: list[str] = []
    # not splitlines(): that also splits at characters which a value may contain, such as U+2028
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        matched = _LINE.fullmatch(content)
        if matched is None:
            faults.append(f"line {number}: not of the form NAME=value")
            continue
        try:
            values[matched["name"]] = _value(matched["rest"])
        except ValueError as error:
            faults.append(f"line {number}: {matched['name']}: {error}")
    if faults:
        raise DotenvError(faults)
    return values


def _value(rest: str) -> str:
    if rest[:1] not in {"'", '"'}:
        # a # without a space before it belongs to the value, as in a URL's fragment
        return re.split(r"(?:^|\s)#", rest, maxsplit=1)[0].strip()
    quoted = (_SINGLE if rest[0] == "'" else _DOUBLE).match(rest)
    if quoted is None:
        raise ValueError(f"the quote {rest[0]} is not closed on its line")
    if not _COMMENT.fullmatch(rest, quoted.end()):
        raise ValueError("text behind the closing quote; a comment needs a space and # before it")
    return quoted["value"] if rest[0] == "'" else _ESCAPE.sub(_unescape, quoted["value"])


def _unescape(escape: re.Match[str]) -> str:
    if escape[1] not in _ESCAPED:
        raise ValueError(f"unknown escape \\{escape[1]}; write \\\\ for a backslash, or use single quotes")
    return _ESCAPED[escape[1]]
