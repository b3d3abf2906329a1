"""What is asked of the real program over one log, and how long it took: one round of the scale benchmark."""

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench.harness.bench_processes import Child, product

ANSWER_TIMEOUT_S = 60.0
PATCHES, MESSAGES, HISTORIES = 60, 60, 120  # cold sessions asked in a round; each takes others
UNCACHED = 60  # cold sessions asked after the page cache was emptied
OPEN_REPLIES = 32  # replies that run when the process is killed
SESSIONS_A_ROUND = UNCACHED + PATCHES + MESSAGES + HISTORIES + OPEN_REPLIES
AGAIN = 600  # further histories of sessions that were asked before
PAGES = 40  # lists of each kind
CREATED = 100
FILES = ("chatbot.db", "projections.db")

Figures = dict[str, list[float]]  # by what was measured; milliseconds where the name tells no unit


class Caller:
    """One connection kept open, one request at a time: what a request costs with nobody else about."""

    def __init__(self, url: str) -> None:
        self.url = url
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_TIMEOUT_S)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON. Raises RuntimeError for a refusal."""
        self.send(method, path, body)
        answer = self._connection.getresponse()
        read = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {read.decode()}")
        return json.loads(read)

    def send(self, method: str, path: str, body: Any = None) -> None:
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, {"Content-Type": "application/json"})

    def first_line(self) -> str:
        """Of an answer that goes on."""
        return self._connection.getresponse().readline().decode()

    def close(self) -> None:
        self._connection.close()


def model_script(model_url: str, **script: Any) -> None:
    """How the model server answers from now on."""
    caller = Caller(model_url)
    caller.ask("POST", "/_script", {"times": None, **script})
    caller.close()


def evict(folder: Path) -> None:
    """Let the files leave the page cache, so that the next reads come from the disk."""
    for name in FILES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can go
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(folder: Path) -> None:
    """Have the files in the page cache, as far as memory allows."""
    for name in FILES:
        with (folder / name).open("rb") as file:
            while file.read(1 << 20):
                pass


def written_bytes(child: Child) -> int:
    """What it has handed to the system to write. `write_bytes` would tell more than was written: it counts whole
    folios of the page cache, which are large where a file was read from front to back.
    """
    lines = Path(f"/proc/{child.pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


class Round:
    """One round over the log in `folder`; `sessions` are ids of which none was asked before."""

    def __init__(self, folder: Path, model_url: str, sessions: Iterator[str], figures: Figures) -> None:
        self._folder = folder
        self._model_url = model_url
        self._sessions = sessions
        self._figures = figures
        self._known: list[str] = []

    def run(self) -> None:
        """Start with nothing cached, start again with everything, ask, stop, kill, recover."""
        model_script(self._model_url)
        evict(self._folder)
        self._serve("start, files not in memory (s)", self._uncached)
        load(self._folder)
        self._serve("start, files in memory (s)", self._asked)
        self._serve("start, files in memory (s)", self._killed)
        self._serve(f"start after kill -9 with {OPEN_REPLIES} open replies (s)", self._nothing)

    def _serve(self, name: str, work: Callable[[Child, Caller], None]) -> None:
        """Start the program, do `work` with it, stop it."""
        began_s = time.monotonic()
        with product(self._folder, self._model_url, CHATBOT_LLM_PROVIDER="openai") as (child, url):
            self._figures[name].append(time.monotonic() - began_s)
            caller = Caller(url)
            work(child, caller)
            caller.close()
            was_killed, began_s = child.process.poll() is not None, time.monotonic()
        if not was_killed:
            self._figures["clean stop (s)"].append(time.monotonic() - began_s)

    def _timed(self, name: str, caller: Caller, method: str, path: str, body: Any = None) -> Any:
        began_s = time.perf_counter()
        answer = caller.ask(method, path, body)
        self._figures[name].append((time.perf_counter() - began_s) * 1000)
        return answer

    def _take(self, count: int) -> list[str]:
        taken = list(islice(self._sessions, count))
        self._known += taken
        return taken

    def empty(self) -> None:
        """What a service with an empty log takes."""
        self._serve("start, files in memory (s)", lambda child, _: self._note_memory("at start", child))

    def _nothing(self, child: Child, caller: Caller) -> None: ...

    def _uncached(self, child: Child, caller: Caller) -> None:
        self._note_memory("at start", child)
        for id_ in self._take(UNCACHED):
            self._patch("first PATCH, files not in memory", caller, id_)

    def _asked(self, child: Child, caller: Caller) -> None:
        for id_ in self._take(PATCHES):
            self._patch("first PATCH of a session", caller, id_)
        self._chats(child, caller)
        for id_ in self._take(HISTORIES):
            self._timed("newest 10 messages, first time", caller, "GET", f"/api/sessions/{id_}/messages?limit=10")
        self._again(child, caller)
        self._lists(caller)
        for _ in range(CREATED):
            self._timed("session create", caller, "POST", "/api/sessions", {"metadata": {"user_id": "bench"}})
        self._note_memory("after the load", child)

    def _patch(self, name: str, caller: Caller, session_id: str) -> None:
        title = f"seen at {time.time_ns()}"  # another than the last run's: what changes nothing is not recorded
        self._timed(name, caller, "PATCH", f"/api/sessions/{session_id}", {"title": title})

    def _chats(self, child: Child, caller: Caller) -> None:
        sessions = self._take(MESSAGES)
        for id_ in sessions:
            body = {"session_id": id_, "message": "Good morning"}
            self._timed("first message of a session", caller, "POST", "/api/chat", body)
        before, turns = written_bytes(child), 3 * len(sessions)
        for id_ in 3 * sessions:
            self._timed("chat turn", caller, "POST", "/api/chat", {"session_id": id_, "message": "And then?"})
        written_kib = (written_bytes(child) - before) / 1024
        self._figures["written to files and sockets per chat turn (KiB)"].append(written_kib / turns)

    def _again(self, child: Child, caller: Caller) -> None:
        before_s = child.cpu_s()
        for number in range(AGAIN):
            id_ = self._known[-1 - number % HISTORIES]
            self._timed("newest 10 messages", caller, "GET", f"/api/sessions/{id_}/messages?limit=10")
        cpu_us = (child.cpu_s() - before_s) / AGAIN * 1e6
        self._figures["CPU for the newest 10 messages (us)"].append(cpu_us)

    def _lists(self, caller: Caller) -> None:
        for number in range(PAGES):
            page = self._timed("session list, first page of 100", caller, "GET", "/api/sessions")
            path = f"/api/sessions?cursor={page['next']}"
            self._timed("session list, next page", caller, "GET", path)
            path = f"/api/sessions?metadata.user_id=user-{number}"
            self._timed("session list, one user's 10", caller, "GET", path)
            path = "/api/sessions?metadata.channel=web"
            self._timed("session list, by what all have", caller, "GET", path)

    def _killed(self, child: Child, caller: Caller) -> None:
        model_script(self._model_url, hold_after=1)
        readers = [Caller(caller.url) for _ in range(OPEN_REPLIES)]
        for id_, reader in zip(self._take(OPEN_REPLIES), readers, strict=True):
            reader.send("POST", "/api/chat/stream", {"session_id": id_, "message": "Tell me"})
        for reader in readers:
            reader.first_line()  # sent once the reply's start is on disk
        child.process.kill()
        child.process.wait(ANSWER_TIMEOUT_S)
        for reader in readers:
            reader.close()

    def _note_memory(self, when: str, child: Child) -> None:
        self._figures[f"memory {when} (MiB)"].append(child.rss_bytes() / 2**20)
