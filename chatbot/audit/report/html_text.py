"""Pieces of HTML from texts of any origin. Everything that a user or a model wrote passes `escape`. Pure."""

import html
from collections.abc import Iterable

import msgspec

from chatbot.audit.printable_text import printable


def escape(text: str) -> str:
    """The text for an element or a quoted attribute. Control characters, which HTML cannot have, are shown as \\x1b."""
    return html.escape(printable(text), quote=True)


def isolated(text: str) -> str:
    """A name or another short text inside a line: its direction does not change that of what stands around it."""
    return f"<bdi>{escape(text)}</bdi>"


def block(text: str, kind: str = "text") -> str:
    """A text of any length with its line breaks, each paragraph in its own direction."""
    return f'<div class="{kind}" dir="auto">{escape(text)}</div>\n'


def code(value: object) -> str:
    """A value as JSON."""
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>\n"


def folded(summary: str, content: str) -> str:
    """Content that is shown on demand. `summary` is HTML."""
    return f"<details><summary>{summary}</summary>\n{content}</details>\n"


def time(text: str) -> str:
    """A time in RFC 3339 format."""
    return f'<time datetime="{escape(text)}">{escape(text)}</time>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of terms and their values, which are HTML; pairs without a value are left out."""
    items = "".join(f"<dt>{escape(term)}</dt><dd>{value}</dd>\n" for term, value in pairs if value)
    return f"<dl>\n{items}</dl>\n"


def table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells are HTML; the first cell of a row is its header."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in columns)
    body = "".join(_row(list(cells)) for cells in rows)
    head = f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
    return f"<table>{head}<tbody>\n{body}</tbody></table>\n"


def _row(cells: list[str]) -> str:
    others = "".join(f"<td>{one}</td>" for one in cells[1:])
    return f'<tr><th scope="row">{cells[0]}</th>{others}</tr>\n'
