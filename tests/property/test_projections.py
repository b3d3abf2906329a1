"""Any history, folded in any way, gives the tables that the log alone gives (promise 6), erasures included."""

import json
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
from msgspec.structs import replace

from events.catalogue import (
    AdoptedMessage,
    BranchSelected,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    MessageWithdrawn,
    MetadataChanged,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    SessionAccessed,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    ToolCallsClosed,
    Usage,
    UsageTotal,
)
from events.record import RecordedEvent
from events.schema.parts import Text, ToolCall, ToolResult
from projections.folds.batch import day_of, key_of
from projections.folds.blind_index import compute_key_label, compute_label, scalar_text
from projections.folds.session import OpenReply, PendingReply, Session, evolve
from projections.port import Checkpoint
from projections.sql.fork_references import FORKS_READING, TEXTS_READ_BY, TEXTS_READ_BY_FORKS
from projections.sqlite.projection_writer import ProjectionWriter
from tests.support.log.event_builders import completed, created, emptied, posted, started
from tests.support.log.memory_log import MemoryLog
from tests.support.nightly import scaled

SESSIONS = ("s0", "s1")
OWNERS = ("alice", "bob", None)
METADATA: tuple[dict[str, Any], ...] = ({}, {"topic": "sea"}, {"topic": "hill", "n": 1}, {"deep": [1]})
MODELS = ("small", "large")
DAY_US = 86_400_000_000


class People:
    """Writes a history that actors could have written: it decides from each session's folded state.

    `ended` has the messages of each session whose texts are on record, `keys` where its requests' keys are.
    """

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.sessions: dict[str, Session] = {}
        self.messages: dict[str, list[str]] = {}
        self.ended: dict[str, dict[str, AdoptedMessage]] = {}
        self.keys: dict[str, set[tuple[str, int]]] = {}
        self.used: dict[str, Counter[tuple[str, str, int, int, int, int]]] = {}
        self.ids = self.requests = 0
        self.forks: list[str] = []

    def act(self, verb: str, who: int, choice: int) -> None:
        """One thing that happens in session `who`, if it can happen there."""
        names = [*SESSIONS, *self.forks[-2:]]
        session_id = names[who % len(names)]
        session = self.sessions.get(session_id)
        if session is None:
            self.create(session_id, choice)
        elif session.status != "deleted":
            getattr(self, verb)(session_id, session, choice)

    def create(self, session_id: str, choice: int) -> None:
        self.used[session_id], self.messages[session_id] = Counter(), []
        self.ended[session_id], self.keys[session_id] = {}, set()
        self.record(session_id, self.keyed(created(OWNERS[choice % 3], "a title", **METADATA[choice % 4])))

    def record(self, session_id: str, *events: Any) -> None:
        for recorded in self.log.record(session_id, *events):
            self.note(session_id, recorded)
            self.sessions[session_id] = evolve(self.sessions.get(session_id), recorded)

    def note(self, session_id: str, recorded: RecordedEvent) -> None:
        """Remember which message has its text and which request has its key in `recorded`."""
        event, before, ended = recorded.event, self.sessions.get(session_id), self.ended[session_id]
        key = key_of(event)
        if key is not None:
            self.keys[session_id].add((key, recorded.position))
        if isinstance(event, MessagePosted):
            said = AdoptedMessage(event.message_id, event.parent_id, event.role, "complete", recorded.position, 1)
            ended[event.message_id] = said
        elif isinstance(event, ReplyEnded) and before is not None:
            owed = owed_in(before)
            parent_id = next(one.message_id for one in owed if one.reply_id == event.reply_id)
            calls = "open" if isinstance(event, ReplyCompleted) and event.parts else None
            said = AdoptedMessage(
                event.reply_id, parent_id, "assistant", "complete", recorded.position, 2, "small", calls
            )
            ended[event.reply_id] = said
        elif isinstance(event, ReplyRequested):
            ended.pop(event.reply_id, None)
        elif isinstance(event, MessageCopied):
            ended[event.message_id] = replace(ended[event.message_id], position=recorded.position)

    def keyed(self, event: Any) -> Any:
        """`event` as a request with a key caused it, one time in three; a key may come again elsewhere."""
        self.requests += 1
        if self.requests % 3:
            return event
        return replace(event, idempotency_key=f"key{self.requests % 7}", fingerprint="f" * 64)

    def post(self, session_id: str, session: Session, choice: int) -> None:
        self.ids += 1
        known = [None, *self.messages[session_id]]
        parent = session.head if choice % 3 else known[choice % len(known)]
        message_id, reply_id = f"m{self.ids}", f"r{self.ids}" if choice % 5 else None
        self.record(session_id, self.keyed(posted(message_id, parent, reply_id)))
        self.messages[session_id] += [message_id] + ([reply_id] if reply_id else [])

    def talk(self, session_id: str, session: Session, choice: int) -> None:
        """A whole turn."""
        self.ids += 1
        message_id, reply_id, model = f"m{self.ids}", f"r{self.ids}", MODELS[choice % 2]
        self.record(session_id, self.keyed(posted(message_id, session.head, reply_id)))
        if self.sessions[session_id].open_reply is None:
            self.record(session_id, started(reply_id, message_id, model), completed(reply_id, choice, 7, model))
            self.count(session_id, model, choice)
        self.messages[session_id] += [message_id, reply_id]

    def count(self, session_id: str, model: str, prompt: int, reasoning: int = 0, cached: int = 0) -> None:
        """A reply that counts in the usage of today, with seven tokens of text."""
        self.used[session_id][day_of(self.log.now_us), model, prompt, 7, reasoning, cached] += 1

    def call(self, session_id: str, session: Session, choice: int) -> None:
        """A turn that ends in a tool call."""
        self.ids += 1
        message_id, reply_id = f"m{self.ids}", f"r{self.ids}"
        self.record(session_id, posted(message_id, session.head, reply_id))
        if self.sessions[session_id].open_reply is None:
            ended = replace(completed(reply_id, choice, 7), content="", parts=(ToolCall("call", "weather", "{}"),))
            self.record(session_id, started(reply_id, message_id), ended)
            self.count(session_id, "small", choice)
        self.messages[session_id] += [message_id, reply_id]

    def settle(self, session_id: str, session: Session, choice: int) -> None:
        """Results for a message, or word that none will come; for one without calls this changes nothing."""
        if self.messages[session_id]:
            self.ids += 1
            reply_id = self.messages[session_id][-1 - choice % min(2, len(self.messages[session_id]))]
            if choice % 3:
                results = (ToolResult("call", (Text("21 degrees"),)),)
                self.record(session_id, MessagePosted(f"m{self.ids}", reply_id, "tool", "", parts=results))
                self.messages[session_id].append(f"m{self.ids}")
            else:
                self.record(session_id, self.keyed(ToolCallsClosed(reply_id, ("call",), "superseded")))

    def start(self, session_id: str, session: Session, choice: int) -> None:
        if session.pending and session.open_reply is None:
            waiting = session.pending[0]
            begun = started(waiting.reply_id, waiting.message_id, MODELS[choice % 2])
            named = (None, "made up", "small")[choice % 3]
            begun = replace(begun, parameters=Parameters(model=named), counted_as=named if named == "small" else None)
            self.record(session_id, replace(begun, attempt=waiting.attempt))

    def regenerate(self, session_id: str, session: Session, choice: int) -> None:
        """Another reply to any message, which waits its turn."""
        if self.messages[session_id]:
            self.ids += 1
            parent = self.messages[session_id][choice % len(self.messages[session_id])]
            self.record(session_id, self.keyed(ReplyRequested(f"again{self.ids}", parent, Parameters(seed=choice))))
            self.messages[session_id].append(f"again{self.ids}")

    def retry(self, session_id: str, session: Session, choice: int) -> None:
        """A crash: the reply that ran, or one that waited, is interrupted and owed all the same."""
        owed = owed_in(session)
        if owed:
            one = owed[choice % len(owed)]
            again = ReplyRequested(one.reply_id, one.message_id, Parameters(), one.attempt + 1)
            self.record(session_id, ReplyInterrupted(one.reply_id, "partial", "crash"), again)

    def fork(self, session_id: str, session: Session, choice: int) -> None:
        """A session that begins with the branch of one of the messages, if all of that has ended."""
        ended = self.ended[session_id]
        leaf = [None, *ended][choice % (len(ended) + 1)]
        branch: list[AdoptedMessage] = []
        while leaf is not None:
            if leaf not in ended:
                return
            branch.insert(0, ended[leaf])
            leaf = branch[0].parent_id
        self.ids += 1
        fork_id = f"s{self.ids + len(SESSIONS)}"
        self.create(fork_id, choice)
        if branch:
            self.record(fork_id, HistoryAdopted(tuple(branch)))
        self.messages[fork_id] = [said.message_id for said in branch]
        self.ended[fork_id] = {said.message_id: said for said in branch}
        self.forks.append(fork_id)

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
            running = session.open_reply
            names_model = running is not None and running.reply_id == reply_id and running.names_model
            known = model if choice % 2 else None
            ended = replace(completed(reply_id, choice, 7, model), counted_as=known)
            self.record(session_id, ReplyProgressed(reply_id, 0, "so far"), ended)
            counted = model if names_model else known or "other"
            self.count(session_id, counted, choice)
        else:
            kinds = (ReplyFailed, ReplyCancelled, ReplyInterrupted)
            usage = Usage(choice, 7, choice + 7, 5, 1) if choice % 2 else None
            running = session.open_reply
            names_model = running is not None and running.reply_id == reply_id and running.names_model
            self.record(session_id, kinds[choice // 3 % 3](reply_id, "partial", "cause", usage=usage, model="small"))
            if usage is not None:
                self.count(session_id, "small" if names_model else "other", choice, 5, 1)

    def touch(self, session_id: str, session: Session, choice: int) -> None:
        self.record(session_id, self.keyed(SessionAccessed()))
        self.log.now_us += DAY_US if choice % 4 == 0 else 0

    def describe(self, session_id: str, session: Session, choice: int) -> None:
        self.record(session_id, MetadataChanged(METADATA[choice % 4], "another title"))

    def expire(self, session_id: str, session: Session, choice: int) -> None:
        reason = (None, "request")[choice % 2]  # of an erasure that waits for forks
        if session.status == "active":
            self.record(session_id, SessionExpired(session.expires_at_us, reason))

    def withdraw(self, session_id: str, session: Session, choice: int) -> None:
        """Take back a queued message that has no other reply; what follows its reply moves up."""
        ended, replies = self.ended[session_id], Counter[str]()
        for recorded in self.log.events:
            if recorded.stream_id == session_id and isinstance(recorded.event, MessagePosted):
                replies[recorded.event.message_id] += 1
            elif recorded.stream_id == session_id and isinstance(recorded.event, ReplyRequested):
                replies[recorded.event.parent_id] += recorded.event.attempt == 1
        waiting = [one for one in session.pending if one.attempt == 1 and replies[one.message_id] == 1]
        waiting = [one for one in waiting if one.message_id in ended and ended[one.message_id].position > session.no]
        parents = {below.parent_id for below in ended.values()}
        waiting = [one for one in waiting if one.message_id not in parents]  # as for an actor: it has only its reply
        if not waiting:
            return
        one = waiting[choice % len(waiting)]
        self.copy_to_forks(session_id, {ended[one.message_id].position})
        parent_id = ended.pop(one.message_id).parent_id
        self.record(session_id, MessageWithdrawn(one.message_id, one.reply_id, parent_id))
        for message_id in (one.message_id, one.reply_id):
            self.messages[session_id].remove(message_id)
        for message_id, below in ended.items():
            if below.parent_id == one.reply_id:
                ended[message_id] = replace(below, parent_id=parent_id)

    def select(self, session_id: str, session: Session, choice: int) -> None:
        if self.messages[session_id]:
            leaf = self.messages[session_id][choice % len(self.messages[session_id])]
            self.record(session_id, self.keyed(BranchSelected(leaf)))

    def read(self, session_id: str, session: Session, choice: int) -> None:
        self.record(session_id, SessionRead(session.version - choice % 3))

    def pin(self, session_id: str, session: Session, choice: int) -> None:
        self.record(session_id, MetadataChanged(METADATA[choice % 4], "a title", pinned=choice % 2 == 0))

    def empty(self, session_id: str, session: Session, choice: int) -> None:
        self.erase(session_id, emptied(*self.usage_of(session_id), owner=session.owner))

    def delete(self, session_id: str, session: Session, choice: int) -> None:
        self.erase(session_id, SessionDeleted("asked", session.owner, self.usage_of(session_id)))

    def forget(self, session_id: str, session: Session, choice: int) -> None:
        """Erased without a word about what was used: then it counts no more."""
        self.used[session_id].clear()
        self.empty(session_id, session, choice)

    def erase(self, session_id: str, event: Any) -> None:
        self.copy_to_forks(session_id, {position for _, _, position in self.borrowed(session_id)})
        recorded = self.log.erase_now(session_id, event)
        self.sessions[session_id] = evolve(self.sessions[session_id], recorded)
        self.messages[session_id], self.ended[session_id], self.keys[session_id] = [], {}, set()

    def copy_to_forks(self, session_id: str, positions: set[int]) -> None:
        """Forks copy the texts at `positions` that they read."""
        for fork_id, message_id, position in self.borrowed(session_id):
            if position in positions:
                self.record(fork_id, MessageCopied(message_id, "user", "its text", model="small"))

    def borrowed(self, session_id: str) -> list[tuple[str, str, int]]:
        """Messages of other sessions whose texts are in this one's events."""
        return [
            (fork_id, said.message_id, said.position)
            for fork_id, ended in self.ended.items()
            for said in ended.values()
            if fork_id != session_id and self.log.events[said.position - 1].stream_id == session_id
        ]

    def usage_of(self, session_id: str) -> tuple[UsageTotal, ...]:
        """Everything the session ever used, whatever was erased of it."""
        totals: dict[tuple[str, str], list[int]] = {}
        for (day, model, *tokens), n in self.used[session_id].items():
            total = totals.setdefault((day, model), [0] * 5)
            for place, number in enumerate((1, *tokens)):
                total[place] += n * number
        return tuple(UsageTotal(day, model, *numbers) for (day, model), numbers in sorted(totals.items()))


def owed_in(session: Session) -> list[OpenReply | PendingReply]:
    """The replies that run or wait."""
    return [*([session.open_reply] if session.open_reply else []), *session.pending]


class Follower:
    """A store that folds a log in batches, and may be closed and opened in between."""

    def __init__(self, directory: str, name: str, log: MemoryLog) -> None:
        self.path, self.log = Path(directory, name), log
        self.store = ProjectionWriter(self.path)

    def follow(self, batch_max: int) -> None:
        while batch := self.log.events[self.store.checkpoint.position :][:batch_max]:
            self.store.apply(batch, Checkpoint(batch[-1].position, b"digest", b"identity"))

    def restart(self) -> None:
        assert self.store.purge_erased_hashes(), "nothing but copies of what was erased goes"
        self.store.close()
        self.store = ProjectionWriter(self.path)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything in the file, labels by what they stand for, because each file has a key of its own."""
        self.store.close()
        connection = sqlite3.connect(self.path)
        ((key,),) = connection.execute("SELECT label_key FROM meta").fetchall()
        said = {
            (name, text) for metadata in METADATA for name, value in metadata.items() if (text := scalar_text(value))
        }
        meaning = {compute_label(key, name, text): f"{name}={text}" for name, text in said}
        keys = {compute_key_label(key, f"key{number}"): f"key{number}" for number in range(7)}
        names = ("sessions", "counts", "messages", "usage", "erased_usage")
        tables = {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names}
        tables["labels"] = sorted((meaning[label], no) for label, no in connection.execute("SELECT * FROM labels"))
        tables["keys"] = sorted((no, keys[label], at) for no, label, at in connection.execute("SELECT * FROM keys"))
        tables["borrowed"] = [(row[0], *one) for row in tables["sessions"] for one in borrowed_of(connection, row[0])]
        tables["meta"] = connection.execute("SELECT schema_version, position, digest FROM meta").fetchall()
        connection.close()
        return tables


def borrowed_of(connection: sqlite3.Connection, no: int) -> Iterator[tuple[str, str, int]]:
    """Texts of the session `no` that forks read: the fork, the message, and where its text is."""
    after = ""
    while True:
        lent = {"no": no, "after": after, "limit": 2}
        after, positions = connection.execute(TEXTS_READ_BY_FORKS, lent).fetchone()
        if after is None:
            return
        for position in json.loads(positions):
            forks = connection.execute(FORKS_READING, {"position": position, "after": 0, "limit": 1_000}).fetchall()
            for fork_no, fork_id in forks:
                read = {"fork_no": fork_no, "after": position - 1, "limit": 1_000}
                rows = connection.execute(TEXTS_READ_BY, read).fetchall()
                yield from ((fork_id, message_id, at) for message_id, at, _ in rows if at == position)


VERBS = [*["talk"] * 3, "post", *["start"] * 2, *["end"] * 2, "answer_again", "touch", "describe"]
VERBS += ["expire", "select", "empty", "empty", "forget", "delete", *["fork"] * 3, "regenerate", "regenerate", "retry"]
VERBS += ["call", "settle", "settle", *["withdraw"] * 3, "read", "pin"]
DEEDS = st.tuples(st.sampled_from(VERBS), st.integers(0, 3), st.integers(0, 11))
FOLLOWS = st.tuples(st.sampled_from(["follow", "follow", "restart"]), st.integers(1, 5), st.just(0))
LIVES = [
    [("talk", 0, 1)] * 3 + [("follow", 3, 0), ("empty", 0, 0), ("talk", 0, 1), ("follow", 3, 0), ("delete", 0, 0)],
    [("talk", 0, 1)] * 3 + [("empty", 0, 0), ("follow", 3, 0), ("talk", 0, 2), ("delete", 0, 0), ("follow", 3, 0)],
    [("talk", 0, 2)] * 2 + [("describe", 0, 1), ("follow", 3, 0), ("describe", 0, 2), ("expire", 0, 0)],
    [("talk", 0, 0)] * 4 + [("fork", 0, 6), ("follow", 2, 0), ("fork", 2, 4), ("delete", 0, 0), ("delete", 2, 0)],
    [("talk", 0, 0)] * 4 + [("follow", 2, 0), ("fork", 0, 6), ("delete", 0, 0), ("follow", 1, 0), ("talk", 2, 0)],
    [("talk", 0, 0)] * 2 + [("regenerate", 0, 1), ("start", 0, 0), ("follow", 1, 0), ("retry", 0, 0), ("start", 0, 0)],
    [("post", 0, 1)] * 3 + [("follow", 2, 0), ("withdraw", 0, 1), ("post", 0, 1), ("withdraw", 0, 0), ("start", 0, 0)],
    [("touch", 0, 0), ("post", 0, 1), ("follow", 1, 0), ("start", 0, 1), ("restart", 0, 0), ("end", 0, 1)],
    [("talk", 1, 0), ("post", 1, 1), ("fork", 1, 1), ("follow", 2, 0), ("withdraw", 1, 0), ("delete", 1, 0)],
]


@pytest.fixture(scope="module")
def directory() -> Iterator[str]:
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None  # memory: thousands of small files
    made = tempfile.mkdtemp(dir=base)
    yield made
    shutil.rmtree(made)


@settings(max_examples=scaled(200), deadline=None)
@given(happenings=st.lists(st.one_of(DEEDS, DEEDS, FOLLOWS), min_size=15, max_size=60))
@example(happenings=LIVES[0])
@example(happenings=LIVES[1])
@example(happenings=LIVES[2])
@example(happenings=LIVES[3])
@example(happenings=LIVES[4])
@example(happenings=LIVES[5])
@example(happenings=LIVES[6])
@example(happenings=LIVES[7])
@example(happenings=LIVES[8])
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
    positions = {(row[1], row[2]): row[7] for row in tables["messages"]}
    for session_id, ended in people.ended.items():
        no = people.sessions[session_id].no
        assert {said.message_id: positions.pop((no, said.message_id)) for said in ended.values()} == {
            said.message_id: said.position for said in ended.values()
        }
    assert not any(positions.values())  # of a reply that has not ended, the text is nowhere yet
    assert tables["keys"] == sorted((people.sessions[s].no, *key) for s, keys in people.keys.items() for key in keys)
    borrowed = [(people.sessions[s].no, *one) for s in people.sessions for one in people.borrowed(s)]
    assert sorted(tables["borrowed"]) == sorted(borrowed)
