"""The port of the read models: what their consumers ask, and what a store of them must offer to the runner.

Consumers (`chatbot/sessions`, `chatbot/api`) import this module and the row types of `folds/`, never a store. The
runner follows the log and writes through `ProjectionStore`; both stores pass the contract suite in `tests/contract`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from events.catalogue import UsageTotal
from events.errors import UnknownEvent
from events.log import EventLog
from events.record import RecordedEvent
from projections.folds.message import MessageRow, TreeMessage
from projections.folds.session import Session
from projections.fork_texts import ForkedMessage, ForkReference, ReferencedTexts, ReferencingFork

ListOrder = Literal["accessed", "created"]
UsageKey = Literal["day", "owner", "model"]
# Called with the owners whose lists of sessions have changed ('' for none; None: any may have), and the log position up
# to which queries show that.
OnChanged = Callable[[frozenset[str] | None, int], None]


class Checkpoint(Struct, frozen=True):
    """`position` is the last folded one (0: none), `digest` the log's digest there, `identity` that at position 1."""

    position: int = 0
    digest: bytes = b""
    identity: bytes = b""


class SessionListQuery(Struct, frozen=True):
    """Which sessions to list, and in which order: the latest access first, or the newest first.

    A session moves to the front of the order by access whenever it is used, so a client that pages through that list
    may miss it; the order by creation never changes. `owner` None means sessions without an owner, unless `any_owner`.
    `kind` is as in session_created. `pinned` None: whether pinned or not. `after` is (accessed_at_us, no) of the last
    session of the previous page. `now_us`: a session whose deadline is past counts as expired, even if that is not
    recorded yet. All `metadata` entries must match; the match is by keyed hash, so compare the recorded metadata with
    `blind_index.metadata_matches`.
    """

    owner: str | None = None
    any_owner: bool = False
    status: Literal["active", "expired"] = "active"
    kind: str = ""
    metadata: Mapping[str, str] = {}
    after: tuple[int, int] | None = None
    order: ListOrder = "accessed"
    now_us: int = 0
    limit: int = 100
    pinned: bool | None = None


class SessionPage(Struct, frozen=True):
    """A page of the session list. `after` is the cursor of the next page, as in `SessionListQuery`; None: no more
    pages. A page may be short or empty and not be the last: one request scans a bounded number of sessions. `position`
    is the log position up to which the page shows everything: what `ChangesQuery.after` goes on from.
    """

    sessions: list[Session]
    after: tuple[int, int] | None = None
    position: int = 0


class ChangesQuery(Struct, frozen=True):
    """Which sessions have changed in lists since position `after`, deleted and expired ones included. `owner` and
    `any_owner` as in `SessionListQuery`.
    """

    owner: str | None = None
    any_owner: bool = False
    after: int = 0
    limit: int = 100


class ChangedSessions(Struct, frozen=True):
    """Sessions as they are at `position`, each once, in the order of their last change. If there are as many as the
    limit, more may have changed: go on after the last one's `changed_at`.
    """

    sessions: list[Session]
    position: int


class NewestMessage(Struct, frozen=True):
    """The newest message of a session's selected branch and its parent, as far as they have recorded texts."""

    session_no: int
    message_id: str
    role: str
    position: int


class EraseCandidatesQuery(Struct, frozen=True, kw_only=True):
    """Sessions whose content is still there, active or expired. Every condition that is given must hold.
    `with_deleted`: deleted sessions, too.

    The match of `metadata` is by keyed hash, so compare the recorded metadata with `blind_index.metadata_matches`.
    `expired_by_us`: their deadline is not later (recorded as expired or not), and they owe no reply. `before_no` is the
    last session of the previous page.
    """

    owner: str | None = None
    metadata: Mapping[str, str] = {}
    expired_by_us: int | None = None
    before_no: int | None = None
    limit: int = 500
    with_deleted: bool = False


class UsageRow(Struct, frozen=True):
    """Replies and their tokens under one key: a day (UTC), an owner ('' for none) or a model. Counted are replies that
    completed, and others where the model server told their tokens.
    """

    key: str
    replies: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0


class Snapshot(Struct, frozen=True):
    """A session and messages of one branch at one point in time.

    `depth` is the number of messages of the branch; None if the session does not have the branch's last message.
    `knows_before`: whether it has the message that `before` names.
    """

    session: Session
    depth: int | None
    knows_before: bool
    messages: list[MessageRow]


class ProjectionQueries(Protocol):
    """The queries of the read models. Every answer is bounded.

    An answer is as old as the projections are: to read your own writes, first await `Projections.wait_for`. All methods
    raise ProjectionsUnavailable while the store is being rebuilt or cannot be read.
    """

    async def session(self, session_id: str) -> Session | None:
        """The session, deleted and expired ones included."""
        ...

    async def list_sessions(self, listing: SessionListQuery) -> SessionPage:
        """Up to `listing.limit` sessions, and the cursor of the next page."""
        ...

    async def changed_sessions(self, changes: ChangesQuery) -> ChangedSessions:
        """Up to `changes.limit` sessions that have changed, the longest unchanged first."""
        ...

    async def count_changed(self, changes: ChangesQuery) -> int:
        """How many sessions have changed, counted up to `changes.limit`."""
        ...

    async def newest_messages(self, sessions: Sequence[Session]) -> list[NewestMessage]:
        """For each session up to two messages, the newest first: where its branch ends, and what that follows."""
        ...

    async def path(self, session_no: int, leaf: str, *, limit: int, before: str | None = None) -> list[MessageRow]:
        """The newest `limit` messages of the branch that ends in `leaf`, in time order.

        With `before`, the messages that precede that message, whichever branch it is on. Empty if there is no such
        message.
        """
        ...

    async def snapshot(
        self,
        session_id: str,
        *,
        branch: str | None = None,
        limit: int,
        before: str | None = None,
        owner: str | None = None,
    ) -> Snapshot | None:
        """The session with the newest `limit` messages of `branch` (default: the selected branch), as in `path`.

        With `owner` ("": none) only a session of that owner, or of none: another's takes the time of an unknown one.
        """
        ...

    async def message(self, session_no: int, message_id: str) -> MessageRow | None:
        """One message; None if the session does not have it."""
        ...

    async def message_tree(self, session_no: int, *, limit: int) -> list[TreeMessage]:
        """The first `limit` messages of all branches, parents before children."""
        ...

    async def newest_leaf(self, session_no: int, message_id: str) -> str | None:
        """The newest message at or below `message_id`, where its branch continues; None if there is no such message.

        Visits all messages below: about 2 us each.
        """
        ...

    async def positions_of_key(self, session_no: int, idempotency_key: str) -> list[int]:
        """Positions of events that may hold this key: almost always one or none. Compare with the recorded event."""
        ...

    async def open_sessions(self, *, limit: int, after: int = 0) -> list[Session]:
        """Sessions with a running or queued reply, by `no`, beginning after `after`."""
        ...

    async def owed_by_other_nodes(self, node: str, *, limit: int, after: int = 0) -> list[Session]:
        """The `open_sessions` in which a node other than `node` is responsible for a reply or generates it."""
        ...

    async def due(self, now_us: int, *, limit: int) -> list[Session]:
        """Active sessions past their deadline that owe no reply, the longest overdue first. Their actors decide."""
        ...

    async def next_deadline(self) -> int | None:
        """The next deadline of such a session, in microseconds; None if there is none."""
        ...

    async def long_expired(self, by_us: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        """Expired sessions, with content, whose deadline was at `by_us` or before, the oldest first; not these `no`."""
        ...

    async def oldest_expired(self, *, without: Sequence[int] = ()) -> int | None:
        """The earliest deadline among expired sessions, in microseconds; None if there is none. Not of these `no`."""
        ...

    async def above_limit(self, bytes_max: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        """The oldest ended sessions that are no conversations, of owners whose such texts are more than `bytes_max`."""
        ...

    async def erasing(self, *, limit: int, after: int = 0) -> list[Session]:
        """Deleted sessions whose content is not erased yet, by `no`, beginning after `after`."""
        ...

    async def erase_candidates(self, wanted: EraseCandidatesQuery) -> list[Session]:
        """Up to `wanted.limit` sessions that match an erasure, the newest first."""
        ...

    async def texts_read_by_forks(self, session_no: int, *, after: str, limit: int) -> ReferencedTexts | None:
        """The texts that forks read among the session's next `limit` messages after the id `after`; None: no more
        messages.
        """
        ...

    async def forks_reading(self, position: int, *, after: int, limit: int) -> list[ReferencingFork]:
        """Up to `limit` forks that read the text at `position`, by `no`, beginning after `after`."""
        ...

    async def texts_read_by(self, fork_no: int, *, after: int, limit: int) -> list[ForkReference]:
        """Up to `limit` messages of a fork with texts of other sessions, by position, beginning after `after`."""
        ...

    async def forked_messages(self, message_id: str, *, after: int, limit: int) -> list[ForkedMessage]:
        """Up to `limit` forks that began with this message, by `no`, beginning after `after`. Others may be among
        them, which were created with it.
        """
        ...

    async def has_owners(self) -> bool:
        """Whether any session, deleted ones included, belongs to an API key."""
        ...

    async def counts(self) -> dict[str, int]:
        """Sessions by status: active, expired, deleted."""
        ...

    async def usage(self, by: UsageKey, from_day: str, to_day: str, owner: str | None = None) -> list[UsageRow]:
        """Usage from `from_day` to `to_day`, both included (YYYY-MM-DD), of all owners or of one."""
        ...

    async def usage_of(self, session_no: int) -> tuple[UsageTotal, ...]:
        """What one session contributes to the usage, earlier erasures included: for the event that erases it."""
        ...


class Projections(Protocol):
    """How current the read models are; their queries are `ProjectionQueries`."""

    @property
    def position(self) -> int:
        """The log position up to which the projections are folded."""
        ...

    @property
    def rebuilding(self) -> bool:
        """Whether the projections are behind the log's head as it was when their store was opened or replaced."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """What stopped the projections for good; None while they work."""
        ...

    async def wait_for(self, position: int, *, timeout_s: float | None = None) -> None:
        """Return once everything up to `position` is folded, so that queries show it.

        Raises ProjectionLag after `timeout_s` (default: `RunnerOptions.wait_s`), ProjectionsStopped if the projections
        will never get there.
        """
        ...

    def retry(self) -> None:
        """Try again now what failed: its cause, such as a full disk, may be gone."""
        ...

    def on_changed(self, listener: OnChanged) -> None:
        """Have `listener` called after each batch that changes lists of sessions, on the event loop. Must not raise.
        Where another process folds, it is called only while `set_list_readers` says that somebody reads lists.
        """
        ...

    def set_list_readers(self, *, has_readers: bool) -> None:
        """Whether this process has readers of lists. With the first, `on_changed` tells what may have been missed."""
        ...


class ProjectionStatus(Projections, Protocol):
    """The read models with their health, as readiness and metrics report it."""

    @property
    def trouble(self) -> Exception | None:
        """The transient error of the last attempt, such as a full disk; None if it succeeded."""
        ...

    @property
    def lag(self) -> int:
        """Events in the log that are not folded yet."""
        ...

    @property
    def unknown_event(self) -> UnknownEvent | None:
        """The `failure`, if it is an event type of a newer version: this program must be updated."""
        ...


class ProjectionStore(Protocol):
    """What the runner needs of a store. Used by one task; only `queries` may be used by all.

    Transient failures (a full disk, a lost connection) raise ProjectionsUnavailable and may be retried: whatever failed
    has then changed nothing. InvalidProjection means that the content is wrong: the runner calls `replace` and folds
    the log again.
    """

    checkpoint: Checkpoint  # what is folded; empty while nothing is, and while the store could not be replaced
    has_erased_hashes: bool  # whether remains of erased hashes may be left, for `purge_erased_hashes`
    purges_while_folding: bool  # whether `purge_erased_hashes` may run while the other methods do; else it never does
    on_trouble: Callable[[str | None], None]  # called by queries: why to replace the store; None: it is unreadable now

    @property
    def queries(self) -> ProjectionQueries:
        """Queries over the last committed batch."""
        ...

    async def open(self, log: EventLog) -> str | None:
        """Lock the store for this process and open or create it. Returns why it must be replaced, None if it is valid.

        Raises LogReplaced if it has folded events that `log` does not have: to fold what is left would hide that they
        are lost. Raises ProjectionsInUse if another process has it open, ProjectionsUnusable if it cannot be opened.
        """
        ...

    async def replace(self) -> None:
        """Empty the store; its new hashes get a new key. Until then queries raise ProjectionsUnavailable."""
        ...

    async def adopt(self, log: EventLog, batch_max: int) -> bool:
        """Replace the content by what a rebuild elsewhere has made ready; False if nothing is ready.

        First folds into it what this store has folded and it has not, so that answers never go back in time; queries
        wait meanwhile. Raises InvalidRebuild if it cannot be used, LogUnavailable, ProjectionsUnavailable.
        """
        ...

    async def apply(self, batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> frozenset[str]:
        """Fold `batch` and move to `checkpoint` in one transaction: all or nothing. Returns the owners whose lists of
        sessions have changed, '' for none.

        Raises LogUnusable if the batch does not directly follow the present checkpoint, InvalidProjection,
        ProjectionsUnavailable.
        """
        ...

    async def purge_erased_hashes(self) -> bool:
        """Remove remains of erased hashes. Returns whether none are left. Raises as `apply`."""
        ...

    async def is_in_place(self) -> bool:
        """Whether the open store is still the one at the configured location, and not deleted or replaced."""
        ...

    async def close(self) -> None:
        """Close whatever is open and release the lock. Never raises for a store that could not be opened."""
        ...
