"""How a call of the service is written down, for the API's document."""

from typing import Any

from msgspec import Struct

from chatbot.api.schemas import Kind

JSON, SSE, HTML = "application/json", "text/event-stream", "text/html"
NDJSON, MARKDOWN = "application/x-ndjson", "text/markdown"


class Answer(Struct, frozen=True):
    """`body` None: the answer has none. `shows` names the one example that fits, where not all do. Where `media` is a
    stream of lines, `body` is what each of them holds.

    `streams`: for a client that accepts an event stream, the frames that it gets instead; `lines`: for one that accepts
    NDJSON, what each line is; `markdown`: it can be had as Markdown, too.
    """

    says: str
    body: Kind | None = None
    media: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    shows: str | None = None
    streams: Kind | None = None
    lines: Kind | None = None
    markdown: bool = False

    @property
    def kinds(self) -> set[Kind]:
        """All that need a schema."""
        return {kind for kind in (self.body, self.streams, self.lines) if kind is not None}


class Query(Struct, frozen=True):
    """A parameter of the query string. `members`: not one parameter, but one for each member of an object."""

    name: str
    says: str
    schema: dict[str, Any]
    example: Any = None
    members: bool = False


class Call(Struct, frozen=True):
    """`headers` are the request's, `problems` the statuses of its errors that a client should foresee."""

    method: str
    path: str
    name: str
    says: str
    answers: dict[int, Answer]
    details: str = ""
    body: type | None = None
    body_optional: bool = False
    query: tuple[Query, ...] = ()
    headers: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
