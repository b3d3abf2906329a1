"""What the serving benchmark asks of the product and of the floor, and what must come back."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.bench.servers.fake_model import compact

Work = Literal["chat", "stream", "create", "history", "completion", "completion_stream"]
MESSAGE = "Tell me in a few plain words what an event-sourced chat backend does, and why that matters to anybody."
CONTEXT_TURNS = 5  # earlier turns that a client of the floor sends along: as many as the product sends the model
HISTORY_TURNS = 6
NEWEST = 10  # messages that a reader of the history asks for
SETUP_TIMEOUT_S = 30.0
CONTENT = re.compile(rb'"content":"([^"]*)"')  # of the fake model's words, which need no escapes


@dataclass(frozen=True)
class Call:
    """`requests` has one list for each client, which it goes through in turn, TURNS_EACH times each.

    An answer is right when its body holds `mark` `times` times, and, where `text` is given, when the contents of its
    frames add up to that: the number of frames is the server's own affair.
    """

    requests: Sequence[Sequence[bytes]]
    mark: bytes
    times: int = 1
    text: bytes = b""

    def fault(self, status: int, body: bytes) -> str:
        """What is wrong with an answer; empty when nothing is."""
        if status not in (200, 201):
            return f"status {status}: {body[:300]!r}"
        said = b"".join(CONTENT.findall(body)) if self.text else b""
        if said != self.text:
            return f"a reply of {len(said)} bytes in place of {len(self.text)}: {said[-100:]!r}, {body[-300:]!r}"
        found = body.count(self.mark)
        return (
            "" if found == self.times else f"{self.mark[:60]!r} {found} times in place of {self.times}: {body[:300]!r}"
        )


class Product:
    """A client of the product names a session, which holds the conversation."""

    name = "ours"

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc

    def call(self, work: Work, text: str, *, clients: int, sessions_each: int) -> Call:
        """Sessions are made here, beforehand."""
        if work == "create":
            return Call([[self._request("POST", "/api/sessions", CREATE)]] * clients, b'"session_id":"')
        if work in ("completion", "completion_stream"):
            return self._completion(text, clients, stream=work == "completion_stream")
        each = 1 if work == "history" else sessions_each
        connection = HTTPConnection(self._host, timeout=SETUP_TIMEOUT_S)
        sessions = [[self._create(connection) for _ in range(each)] for _ in range(clients)]
        if work == "history":
            for session in [own[0] for own in sessions] * HISTORY_TURNS:
                self._ask(connection, "/api/chat", self._turn(session))
        connection.close()
        if work == "history":
            paths = [f"/api/sessions/{own[0]}/messages?limit={NEWEST}" for own in sessions]
            return Call(
                [[self._request("GET", path)] for path in paths], text.encode(), NEWEST
            )  # as content and as a part
        path = "/api/chat/stream" if work == "stream" else "/api/chat"
        turns = [[self._request("POST", path, self._turn(one)) for one in own] for own in sessions]
        if work == "stream":
            return Call(turns, b'"full_response":"%b"' % text.encode(), text=text.encode())
        return Call(turns, b'"content":"%b"' % text.encode())

    def _completion(self, text: str, clients: int, *, stream: bool) -> Call:
        """A request of OpenAI's API that names no conversation, so each is a session of its own."""
        connection = HTTPConnection(self._host, timeout=SETUP_TIMEOUT_S)
        connection.request("GET", "/v1/models")
        models = json.loads(connection.getresponse().read())["data"]
        connection.close()
        body = {
            "model": models[0]["id"] if models else "any",
            "messages": [{"role": "user", "content": MESSAGE}],
            "max_tokens": 256,
            "temperature": 0.7,
            "stream": stream,
        }
        requests = [[self._request("POST", "/v1/chat/completions", body)]] * clients
        if stream:
            return Call(requests, b"data: [DONE]", text=text.encode())
        return Call(requests, b'"content":"%b"' % text.encode())

    def _request(self, method: str, path: str, body: Any = None) -> bytes:
        return request(self._host, method, path, body)

    @staticmethod
    def _turn(session: str) -> Any:
        return {"session_id": session, "message": MESSAGE, "max_new_tokens": 256, "temperature": 0.7, "do_sample": True}

    def _create(self, connection: HTTPConnection) -> str:
        return str(self._ask(connection, "/api/sessions", CREATE)["session_id"])

    @staticmethod
    def _ask(connection: HTTPConnection, path: str, body: Any) -> Any:
        connection.request("POST", path, compact(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        if answer.status not in (200, 201):
            raise RuntimeError(f"POST {path}: status {answer.status}: {document}")
        return document


class Floor:
    """A client of the floor sends the conversation along, in the model's own words."""

    name = "floor"

    def __init__(self, url: str, protocol: str) -> None:
        self._host = urlsplit(url).netloc
        self._protocol = protocol

    def call(self, work: Work, text: str, *, clients: int, sessions_each: int) -> Call:
        """`sessions_each` means nothing where nothing is kept."""
        del sessions_each
        earlier = [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": text}]
        body: dict[str, Any] = {"messages": [*(earlier * CONTEXT_TURNS)[1:], earlier[0]], "temperature": 0.7}
        if self._protocol == "midm":
            body |= {"max_new_tokens": 256, "do_sample": True}
        else:
            body |= {"model": "fake", "max_tokens": 256, "stream": work == "stream"}
        path = "/api/chat/stream" if work == "stream" else "/api/chat"
        requests = [[request(self._host, "POST", path, body)]] * clients
        if work == "stream":
            mark = b'"full_response":"%b"' % text.encode() if self._protocol == "midm" else b"data: [DONE]"
            return Call(requests, mark, text=text.encode())
        return Call(requests, text.encode())


CREATE = {"metadata": {"user": "bench"}}


def request(host: str, method: str, path: str, body: Any = None) -> bytes:
    data = b"" if body is None else compact(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
