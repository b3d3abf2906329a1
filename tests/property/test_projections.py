"""Any history, folded in any way, gives the tables that the log alone gives (promise 6), erasures included."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from events.catalogue import (
    BranchSelected,
    MetadataChanged,
    ReplyCancelled,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    SessionAccessed,
    SessionDeleted,
    SessionExpired,
    UsageTotal,
)
from projections.batch import day_of
from projections.checkpoint import Checkpoint
from projections.labels import label_of, text_of
from projections.session import Session, evolve
from projections.store import ProjectionStore
from tests.support.memory_log import MemoryLog
from tests.support.turns import completed, created, emptied, posted, started

OWNERS = ("alice", "bob", None)
METADATA: tuple[dict[str, Any], ...] = ({}, {"topic": "sea"}, {"topic": "hill", "n": 1}, {"deep": [1]})
MODELS = ("small", "large")
DAY_US = 86_400_000_000


class People:
    """Writes a history that actors could have written: it decides from each session's folded state."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.sessions: dict[str, Session] = {}
        self.messages: dict[str, list[str]] = {}
        self.used: dict[str, Counter[tuple[str, str, int, int]]] = {}
        self.ids = 0

    def act(self, verb: str, who: int, choice: int) -> None:
        """One thing that happens in session `who`, if it can happen there."""
        session_id = f"s{who}"
        session = self.sessions.get(session_id)
        if session is None:
            self.record(session_id, created(OWNERS[choice % 3], "a title", **METADATA[choice % 4]))
            self.used[session_id], self.messages[session_id] = Counter(), []
        elif session.status != "deleted":
            getattr(self, verb)(session_id, session, choice)

    def record(self, session_id: str, *events: Any) -> None:
        for recorded in self.log.record(session_id, *events):
            self.sessions[session_id] = evolve(self.sessions.get(session_id), recorded)

    def post(self, session_id: str, session: Session, choice: int) -> None:
        self.ids += 1
        known = [None, *self.messages[session_id]]
        parent = session.head if choice % 3 else known[choice % len(known)]
        message_id, reply_id = f"m{self.ids}", f"r{self.ids}" if choice % 5 else None
        self.record(session_id, posted(message_id, parent, reply_id))
        self.messages[session_id] += [message_id] + ([reply_id] if reply_id else [])

    def talk(self, session_id: str, session: Session, choice: int) -> None:
        """A whole turn."""
        self.ids += 1
        message_id, reply_id, model = f"m{self.ids}", f"r{self.ids}", MODELS[choice % 2]
        self.record(session_id, posted(message_id, session.head, reply_id))
        if self.sessions[session_id].open_reply is None:
            self.record(session_id, started(reply_id, message_id, model), completed(reply_id, choice, 7, model))
            self.used[session_id][day_of(self.log.now_us), model, choice, 7] += 1
        self.messages[session_id] += [message_id, reply_id]

    def start(self, session_id: str, session: Session, choice: int) -> None:
        if session.pending and session.open_reply is None:
            waiting = session.pending[0]
            self.record(session_id, started(waiting.reply_id, waiting.message_id, MODELS[choice % 2]))

    def answer_again(self, session_id: str, session: Session, choice: int) -> None:
        if self.messages[session_id] and session.open_reply is None:
            self.ids += 1
            parent = self.messages[session_id][choice % len(self.messages[session_id])]
            self.record(session_id, started(f"again{self.ids}", parent, MODELS[choice % 2]))
            self.messages[session_id].append(f"again{self.ids}")

    def end(self, session_id: str, session: Session, choice: int) -> None:
        replies = [waiting.reply_id for waiting in session.pending]
        if session.open_reply is not None:
            replies.insert(0, session.open_reply.reply_id)
        if not replies:
            return
        reply_id = replies[choice % len(replies)]
        if choice % 3:
            model = MODELS[choice // 3 % 2]
            self.record(session_id, ReplyProgressed(reply_id, 0, "so far"), completed(reply_id, choice, 7, model))
            self.used[session_id][day_of(self.log.now_us), model, choice, 7] += 1
        else:
            kinds = (ReplyFailed, ReplyCancelled, ReplyInterrupted)
            self.record(session_id, kinds[choice % 3](reply_id, "partial", "cause"))

    def touch(self, session_id: str, session: Session, choice: int) -> None:
        self.record(session_id, SessionAccessed())
        self.log.now_us += DAY_US if choice % 4 == 0 else 0

    def describe(self, session_id: str, session: Session, choice: int) -> None:
        self.record(session_id, MetadataChanged(METADATA[choice % 4], "another title"))

    def expire(self, session_id: str, session: Session, choice: int) -> None:
        if session.status == "active":
            self.record(session_id, SessionExpired(session.expires_at_us))

    def select(self, session_id: str, session: Session, choice: int) -> None:
        if self.messages[session_id]:
            self.record(session_id, BranchSelected(self.messages[session_id][choice % len(self.messages[session_id])]))

    def empty(self, session_id: str, session: Session, choice: int) -> None:
        self.erase(session_id, emptied(*self.usage_of(session_id), owner=session.owner))

    def delete(self, session_id: str, session: Session, choice: int) -> None:
        self.erase(session_id, SessionDeleted("asked", session.owner, self.usage_of(session_id)))

    def forget(self, session_id: str, session: Session, choice: int) -> None:
        """Erased without a word about what was used: then it counts no more."""
        self.used[session_id].clear()
        self.empty(session_id, session, choice)

    def erase(self, session_id: str, event: Any) -> None:
        recorded = self.log.erase_now(session_id, event)
        self.sessions[session_id] = evolve(self.sessions[session_id], recorded)
        self.messages[session_id] = []

    def usage_of(self, session_id: str) -> tuple[UsageTotal, ...]:
        """Everything the session ever used, whatever was erased of it."""
        totals: dict[tuple[str, str], list[int]] = {}
        for (day, model, prompt, completion), n in self.used[session_id].items():
            total = totals.setdefault((day, model), [0, 0, 0])
            for place, number in enumerate((n, n * prompt, n * completion)):
                total[place] += number
        return tuple(UsageTotal(day, model, *numbers) for (day, model), numbers in sorted(totals.items()))


class Follower:
    """A store that folds a log in batches, and may be closed and opened in between."""

    def __init__(self, directory: str, name: str, log: MemoryLog) -> None:
        self.path, self.log = Path(directory, name), log
        self.store = ProjectionStore(self.path)

    def follow(self, batch_max: int) -> None:
        while batch := self.log.events[self.store.checkpoint.position :][:batch_max]:
            self.store.apply(batch, Checkpoint(batch[-1].position, b"digest", b"identity"))

    def restart(self) -> None:
        self.store.close()
        self.store = ProjectionStore(self.path)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything in the file, labels by what they stand for, because each file has a key of its own."""
        self.store.close()
        connection = sqlite3.connect(self.path)
        ((key,),) = connection.execute("SELECT label_key FROM meta").fetchall()
        said = {(name, text) for metadata in METADATA for name, value in metadata.items() if (text := text_of(value))}
        meaning = {label_of(key, name, text): f"{name}={text}" for name, text in said}
        names = ("sessions", "counts", "messages", "usage", "erased_usage")
        tables = {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names}
        tables["labels"] = sorted((meaning[label], no) for label, no in connection.execute("SELECT * FROM labels"))
        tables["meta"] = connection.execute("SELECT schema_version, position, digest FROM meta").fetchall()
        connection.close()
        return tables


VERBS = [*["talk"] * 3, "post", *["start"] * 2, *["end"] * 2, "answer_again", "touch", "describe"]
VERBS += ["expire", "select", "empty", "empty", "forget", "delete"]
DEEDS = st.tuples(st.sampled_from(VERBS), st.integers(0, 1), st.integers(0, 11))
FOLLOWS = st.tuples(st.sampled_from(["follow", "follow", "restart"]), st.integers(1, 5), st.just(0))
LIVES = [
    [("talk", 0, 1)] * 3 + [("follow", 3, 0), ("empty", 0, 0), ("talk", 0, 1), ("follow", 3, 0), ("delete", 0, 0)],
    [("talk", 0, 1)] * 3 + [("empty", 0, 0), ("follow", 3, 0), ("talk", 0, 2), ("delete", 0, 0), ("follow", 3, 0)],
    [("talk", 0, 2)] * 2 + [("describe", 0, 1), ("follow", 3, 0), ("describe", 0, 2), ("expire", 0, 0)],
    [("touch", 0, 0), ("post", 0, 1), ("follow", 1, 0), ("start", 0, 1), ("restart", 0, 0), ("end", 0, 1)],
]


@pytest.fixture(scope="module")
def directory() -> Iterator[str]:
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None  # memory: thousands of small files
    made = tempfile.mkdtemp(dir=base)
    yield made
    shutil.rmtree(made)


@settings(max_examples=200, deadline=None)
@given(happenings=st.lists(st.one_of(DEEDS, DEEDS, FOLLOWS), min_size=15, max_size=60))
@example(happenings=LIVES[0])
@example(happenings=LIVES[1])
@example(happenings=LIVES[2])
@example(happenings=LIVES[3])
def test_a_file_that_followed_live_equals_one_rebuilt_from_what_is_left(
    directory: str, happenings: list[tuple[str, int, int]]
) -> None:
    people = People()
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        live = Follower(folder, "live.db", people.log)
        for verb, number, choice in happenings:
            if verb == "follow":
                live.follow(number)
            elif verb == "restart":
                live.restart()
            else:
                people.act(verb, number, choice)
        live.follow(3)
        rebuilt = Follower(folder, "rebuilt.db", people.log)
        rebuilt.follow(2_000)
        tables = live.tables()
        assert tables == rebuilt.tables()
    check_against_what_happened(tables, people)


def check_against_what_happened(tables: dict[str, list[tuple[Any, ...]]], people: People) -> None:
    """The tables tell what people did, by a reckoning that knows no tables."""
    used: Counter[tuple[str, str, str]] = Counter()
    for session_id, session in people.sessions.items():
        for total in people.usage_of(session_id):
            used[total.day, session.owner or "", total.model] += total.completion_tokens
    assert {row[:3]: row[5] for row in tables["usage"]} == dict(used)
    assert {row[0]: row[1] for row in tables["counts"] if row[1]} == Counter(s.status for s in people.sessions.values())
    known = {(people.sessions[s].no, message_id) for s, ids in people.messages.items() for message_id in ids}
    assert {(row[1], row[2]) for row in tables["messages"]} == known
    depths = {(row[1], row[2]): row[4] for row in tables["messages"]}
    assert all(row[4] == depths.get((row[1], row[3]), 0) + 1 for row in tables["messages"])
