"""The projections of a node: it keeps the tables if no other node does, or else follows the one that does.

The right to fold is an advisory lock of a session on the server. A node that folds loses it with its connection, and
another takes it at its next look. A node that only reads is told nothing unless it asks: when something waits for a
position, or while lists have readers.
"""

import asyncio
import time
from contextlib import suppress
from secrets import token_hex

from msgspec.structs import replace

from events.backoff import backoff_delays
from events.errors import LogError, LogUnavailable, UnknownEvent
from events.log import NotifyingLog
from events.storage.postgres.postgres_connection import FAILURES, Database, explain
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from projections.checkpoint import find_mismatch
from projections.errors import (
    LogReplaced,
    ProjectionError,
    ProjectionLag,
    ProjectionsInUse,
    ProjectionsStopped,
    ProjectionsUnavailable,
    ProjectionsUnusable,
)
from projections.observer import NoObserver, ProjectionObserver
from projections.port import OnChanged
from projections.postgres import node_messages
from projections.postgres import node_statements as sql
from projections.postgres.asking_nodes import AskingNodes
from projections.postgres.node_messages import Ask, Reached
from projections.postgres.node_progress import NodeProgress
from projections.postgres.projection_tables import LOCK, ProjectionTables
from projections.postgres.server_session import ServerSession
from projections.postgres.table_checkpoint import read_checkpoint
from projections.postgres.table_queries import TableQueries
from projections.runner import ProjectionRunner, RunnerOptions

LOOK_S = 2.0  # between two looks of an idle node at the lock and the position
ASK_AGAIN_S = 0.25  # while something waits: what was said may be lost, or the node that folded may be gone
SILENT_S = 4.0  # a node that does not fold for so long, although it is asked to, has stopped: another takes its place
REST_S = 2 * LOOK_S  # for which a node that could not fold leaves the lock to others: each of them looks meanwhile
POLL_MAX_S = 1.0  # between two looks of the folding node at an idle log, which other nodes write
LISTEN_S = 10.0  # for which a node that waited keeps listening for an answer to the next question
ASKED_MAX = 1_000  # questions of other nodes under way; they repeat those that are dropped


class NodeProjections:
    """Implements port.ProjectionStatus and, in `queries`, port.ProjectionQueries."""

    def __init__(
        self,
        log: NotifyingLog,
        database: Database,
        pool: PostgresReadPool,
        observer: ProjectionObserver | None = None,
        options: RunnerOptions | None = None,
    ) -> None:
        self.failure: BaseException | None = None
        self.trouble: Exception | None = None
        self.queries = TableQueries(pool, self._report_trouble, lambda: self.position, self._on_behind)
        self._log = log
        self._database = database
        self._pool = pool
        self._observer = observer or NoObserver()
        self._options = options or RunnerOptions()
        self._progress = NodeProgress()
        self._runner: ProjectionRunner | None = None  # while this node folds
        self._asking = AskingNodes("")
        self._name = token_hex(8)
        self._channel = ""
        self._listeners: list[OnChanged] = []
        self._has_list_readers = False
        self._lists_checked_s = float("-inf")
        self._trouble_found: str | None = None  # by a query of this node, for the node that folds
        self._failed_at = 0  # the position at which this node could not go on
        self._rests_until_s = float("-inf")  # until then others may take the lock
        self._connected = asyncio.Event()  # what this node knows of the position is true
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._session: ServerSession | None = None  # while this node folds
        self._newest_session: ServerSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """As Projections.position; on a node that does not fold it may be some seconds old."""
        return self._progress.position

    @property
    def lag(self) -> int:
        """As ProjectionStatus.lag."""
        return max(0, self._log.head().position - self.position)

    @property
    def rebuilding(self) -> bool:
        """As Projections.rebuilding."""
        return self.position < self._progress.target

    @property
    def unknown_event(self) -> UnknownEvent | None:
        """As ProjectionStatus.unknown_event."""
        return self.failure if isinstance(self.failure, UnknownEvent) else None

    async def start(self) -> None:
        """Fold or follow from now on; returns before the projections have caught up.

        Raises LogReplaced, ProjectionsUnusable.
        """
        self._progress.target = self._log.head().position
        try:
            session = await self._connect()
            runner = await self._try_to_fold(session)
            if runner is None:
                await self._wait_for_tables(session)
        except BaseException as error:
            if self._newest_session is not None:
                await self._newest_session.close()
            if isinstance(error, FAILURES):
                raise ProjectionsUnusable(explain(error, self._database.label)) from error
            raise
        self._task = asyncio.create_task(self._run(session, runner), name="projections-node")

    async def wait_for(self, position: int, *, timeout_s: float | None = None) -> None:
        """As Projections.wait_for. A node that does not fold asks the one that does."""
        if position <= self.position and self._connected.is_set():
            return
        deadline_s = time.monotonic() + (self._options.wait_s if timeout_s is None else timeout_s)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await self._connected.wait()
        except TimeoutError:
            raise ProjectionLag(position, self.position) from None
        left_s = max(0.0, deadline_s - time.monotonic())
        try:
            if self._runner is not None:
                await self._runner.wait_for(position, timeout_s=left_s)
            else:
                self._wake.set()
                await self._progress.wait_for(position, left_s)
        except ProjectionLag:
            if self.failure is None:
                raise
            raise ProjectionsStopped(f"the projections stopped at position {self.position}") from self.failure

    def retry(self) -> None:
        """As Projections.retry."""
        if self._runner is not None:
            self._runner.retry()
        self._wake.set()

    def on_changed(self, listener: OnChanged) -> None:
        """As Projections.on_changed; on a node that does not fold, only while `set_list_readers` has said so."""
        self._listeners.append(listener)

    def set_list_readers(self, *, has_readers: bool) -> None:
        """Whether this node has readers of lists. From the first on, `on_changed` is called with what may have been
        missed.
        """
        if has_readers and not self._has_list_readers:
            self._lists_checked_s = float("-inf")
        if has_readers is not self._has_list_readers:
            self._wake.set()
        self._has_list_readers = has_readers

    async def stop(self) -> None:
        """Finish the batch at hand, give up the lock, release all waiters."""
        self._is_stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        for task in self._tasks:
            task.cancel()
        self._progress.end(self.failure or ProjectionsStopped("the service is stopping"))
        self._connected.set()
        self.queries.close()

    async def _run(self, first: ServerSession, runner: ProjectionRunner | None) -> None:
        session: ServerSession | None = first
        delays = backoff_delays(self._options.retry_first_s, self._options.retry_max_s)
        while session is not None or not self._is_stopping:
            try:
                session = session or await self._connect()
                runner = runner or await self._follow(session)
                if runner is not None:
                    await self._keep(session, runner)
                delays = backoff_delays(self._options.retry_first_s, self._options.retry_max_s)
            except (*FAILURES, ProjectionError, LogError) as error:
                self._note_trouble(error)
                await self._pause(next(delays))
            except Exception as error:  # noqa: BLE001  a defect: report it, as others may go on
                self.failure, self._failed_at = error, self.position + 1
                self._observer.failed(error)
                await self._pause(next(delays))
            finally:
                self._connected.clear()
                if session is not None:
                    await session.close()
                session = runner = None

    async def _connect(self) -> ServerSession:
        """Raises FAILURES, ProjectionsUnusable."""
        try:
            session = await ServerSession.open(self._database, self._wake.set)
        except LogError as error:
            raise ProjectionsUnusable(str(error)) from error
        self._newest_session = session
        ((self._channel,),) = await session.fetch(sql.CHANNEL)
        return session

    async def _try_to_fold(self, session: ServerSession) -> ProjectionRunner | None:
        """A started runner, if this node has the lock now. Raises FAILURES, LogReplaced, ProjectionsUnusable."""
        if self._failed_at or time.monotonic() < self._rests_until_s:  # the first until another node has got further
            return None
        store = ProjectionTables(self._database, self._pool)
        try:
            await store.attach(session)
        except ProjectionsInUse:
            return None
        self._asking = AskingNodes(self._channel)
        store.notify = self._asking.notifications
        options = replace(self._options, poll_max_s=POLL_MAX_S)
        runner = ProjectionRunner(store, self._log, self._observer, options, progress=self._progress)
        runner.on_changed(self._notify)
        await runner.start()
        return runner

    async def _keep(self, session: ServerSession, runner: ProjectionRunner) -> None:
        """Fold until the connection is lost, this node stops, or it can fold no further."""
        self._runner, self._session = runner, session
        runner.on_status = lambda: self._note_status(runner)
        try:
            await session.listen(self._channel, self._on_ask)
            self._connected.set()
            if self._has_list_readers:
                self._notify(None, self.position)  # what the node before has told nobody
            troubled_s = float("inf")  # since when it cannot fold
            while not self._is_stopping and runner.failure is None and not session.is_lost:
                self._wake.clear()
                self._note_status(runner)
                now_s = time.monotonic()
                troubled_s = float("inf") if runner.trouble is None else min(troubled_s, now_s)
                if now_s - troubled_s >= SILENT_S:
                    break
                await self._wait_for_wake(None if runner.trouble is None else troubled_s + SILENT_S - now_s)
            is_deposed = session.is_lost and self._asking.are_waiting
            if is_deposed or time.monotonic() - troubled_s >= SILENT_S / 2:
                self._rests_until_s = time.monotonic() + REST_S
        finally:
            self._runner = self._session = None
            self._connected.clear()
            runner.on_status = _ignore
            await runner.stop()
        if runner.failure is not None:
            self.failure, self._failed_at = runner.failure, self.position + 1

    def _note_status(self, runner: ProjectionRunner) -> None:
        if runner.failure is not None or (self.trouble is None) is not (runner.trouble is None):
            self._wake.set()
        self.trouble = runner.trouble
        runner.set_list_readers(has_readers=self._has_list_readers or self._asking.has_list_readers)

    async def _follow(self, session: ServerSession) -> ProjectionRunner | None:
        """Until this node has the lock, with the runner then; None once the connection is lost or the node stops."""
        look_s = listen_until_s = float("-inf")
        moved_s, asked, listens = time.monotonic(), 0, False
        while not self._is_stopping and not session.is_lost:
            self._wake.clear()
            now_s, wanted, before = time.monotonic(), self._progress.wanted, self.position
            if now_s >= look_s or asked:  # what was asked for has no answer
                runner = await self._try_to_fold(session)
                if runner is not None:
                    return runner
                look_s = now_s + LOOK_S
            if wanted or self._has_list_readers:
                listen_until_s = now_s + LISTEN_S
                if not listens:
                    await session.listen(f"{self._channel}_{self._name}", self._on_reached)
            elif listens and now_s > listen_until_s:
                await session.unlisten_all()
            listens = now_s < listen_until_s
            await self._ask(session, wanted)
            self._connected.set()
            if self.position != before or not asked:
                moved_s = now_s
            elif now_s - moved_s > SILENT_S:
                await session.fetch(sql.DEPOSE, LOCK)
                moved_s = now_s
            await self._wait_for_wake(ASK_AGAIN_S if self._progress.wanted else LOOK_S)
            asked = min(wanted, self._progress.wanted)
        return None

    async def _ask(self, session: ServerSession, wanted: int) -> None:
        """Read the position, and ask the folding node for a higher one if something waits for it. Raises FAILURES."""
        trouble, self._trouble_found = self._trouble_found, None
        has_readers = self._has_list_readers and time.monotonic() - self._lists_checked_s >= LOOK_S
        ask = node_messages.encode(Ask(self._name, wanted, has_readers, trouble))
        rows = await session.fetch(sql.ASK, wanted, has_readers or trouble is not None, self._channel, ask)
        if has_readers:
            self._lists_checked_s = time.monotonic()
        for position, _ in rows:
            self._note_reached(Reached(position, None if has_readers else ()))

    def _on_reached(self, said: str) -> None:
        reached = node_messages.decode_reached(said)
        if reached is not None:
            self._note_reached(reached)

    def _note_reached(self, reached: Reached) -> None:
        if reached.position > self.position or time.monotonic() >= self._rests_until_s:
            self.trouble = None
        self._progress.reach(reached.position)
        if self._failed_at and reached.position >= self._failed_at:  # another node could go on
            self.failure, self._failed_at = None, 0
        if self._has_list_readers and (reached.owners is None or reached.owners):
            self._notify(None if reached.owners is None else frozenset(reached.owners), reached.position)

    def _notify(self, owners: frozenset[str] | None, position: int) -> None:
        for listener in self._listeners:
            listener(owners, position)

    def _on_ask(self, said: str) -> None:
        """Another node waits, has readers of lists, or has found the tables damaged."""
        ask, runner, session = node_messages.decode_ask(said), self._runner, self._session
        if ask is None or runner is None or session is None or len(self._tasks) >= ASKED_MAX:
            return
        if ask.trouble is not None:
            runner.on_trouble(ask.trouble or None)
        self._asking.note(ask)
        self._note_status(runner)
        if ask.position:
            task = asyncio.create_task(self._fold_for(runner, session, ask), name="projections-asked")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fold_for(self, runner: ProjectionRunner, session: ServerSession, ask: Ask) -> None:
        """Fold now what another node has appended. The batch itself tells that node, unless it is written already."""
        with suppress(ProjectionError, LogError, *FAILURES):
            if ask.position <= runner.position:
                said = node_messages.encode(Reached(runner.position))
                await session.fetch(sql.NOTIFY, f"{self._channel}_{ask.node}", said)
                return
            if self._log.head().position < ask.position:
                await self._log.latest()
            await runner.wait_for(ask.position)

    async def _wait_for_tables(self, session: ServerSession) -> None:
        """Learn the position. Raises FAILURES, LogReplaced, ProjectionsUnusable."""
        checkpoint = await read_checkpoint(session, self._database.label)
        with suppress(LogUnavailable):
            await self._log.latest()
        reason = await find_mismatch(checkpoint, self._log)
        if reason is not None:
            raise LogReplaced(self._database.label, reason)
        self._progress.reach(checkpoint.position)
        self._connected.set()

    def _report_trouble(self, reason: str | None) -> None:
        """A query of this node found the tables damaged (`reason`) or could not read them (None)."""
        if self._runner is not None:
            self._runner.on_trouble(reason)
        else:
            self._trouble_found = reason or ""
            self._wake.set()

    def _on_behind(self, position: int) -> None:
        """A query found replaced tables, or those of another server than the session's, which may have vanished."""
        self._progress.reach(position)
        self._connected.clear()
        if self._newest_session is not None:
            self._newest_session.abandon()

    def _note_trouble(self, error: Exception) -> None:
        if isinstance(error, LogReplaced):
            self.failure, self._failed_at = error, self.position + 1
        if not isinstance(error, ProjectionError | LogError):
            error = ProjectionsUnavailable(explain(error, self._database.label))
        self.trouble = error
        self._observer.failed(error)

    async def _wait_for_wake(self, timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        if not self._is_stopping:
            await self._wait_for_wake(seconds)


def _ignore() -> None:
    """The role has ended."""
