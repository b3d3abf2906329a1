"""The log service, in the process that writes the log: other processes append through its Unix socket."""

import asyncio
import socket
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial

from events.errors import LogUnavailable
from events.log_observer import LogObserver, NoObserver
from events.record import EventHeader
from events.remote.log_handlers import log_handlers
from events.remote.remote_client import AppendReply, Handler, RemoteClient, find_recorded
from events.remote.shared_positions import SharedPositions
from events.remote.wire_format import Holds, Kind, Status, Welcome
from events.storage.append_batch import Outcome, PendingAppend
from events.storage.group_commit import QueuedAppend
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import read_versions
from events.subscriptions import is_broadcast

KNOWN_VERSIONS_MAX = 20_000  # streams whose versions are known without a query, those that were appended to last
RETRY_S = 0.5  # after the log could not be read
RANGE_PAGE = 1_000  # events that are read at once, to be reported
CLIENTS_MAX = 1_024  # connections: processes on one machine
ACCEPT_RETRY_S = 0.5  # after no connection could be accepted, as descriptors are exhausted


class AppendServer:
    """Serves `log` to all that connect to `listener`, which it closes. `handlers` serve further requests by name: each
    gets the client and the body, and returns the body of the answer or raises a LogError. Calling one twice must do no
    harm.
    """

    def __init__(
        self,
        log: SqliteLog,
        listener: socket.socket,
        positions: SharedPositions,
        *,
        handlers: Mapping[str, Handler] | None = None,
        program: str = "unknown",
        observe: LogObserver | None = None,
    ) -> None:
        side = log.write_side
        if side is None:
            raise ValueError("a log that is only read cannot be served")
        self.program = program
        self.writer = side.writer
        self.handlers: dict[str, Handler] = {**log_handlers(log, side), **(handlers or {})}
        self.clients: set[RemoteClient] = set()
        self.on_client_closed: list[Callable[[RemoteClient], None]] = []
        self._log = log
        self._side = side
        self._listener = listener
        self._positions = positions
        self._observe = observe or NoObserver()
        self._connections: set[RemoteClient] = set()  # also those that have not said hello
        self._holders: defaultdict[str, set[RemoteClient]] = defaultdict(set)
        self._versions: dict[str, int] = {}  # of the streams that were appended to last
        self._reported = 0  # a position: what is up to it on disk is reported, or searched for by one of `_searches`
        self._searches: set[asyncio.Task[None]] = set()
        self._state: _State = (None, None, True, None)
        self._status = Status()  # of `_state`
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Publish the head and accept connections from now on, also those that wait already."""
        head = self._log.head()
        self._positions.set_head(head)
        self._reported = head.position
        self._state = self._read_state()
        self._status = _shown(*self._state)
        self.writer.on_committed = self._on_committed
        self.writer.on_maintained = self.report  # also while nothing is answered
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Answer what was received, then close the connections. What is sent from now on the clients send again to the
        next writer. The log is to be closed after that.
        """
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
        self._listener.close()
        if self._joining:
            await asyncio.wait(self._joining)
        for search in self._searches:
            search.cancel()
        if self._searches:
            await asyncio.wait(self._searches)
        await asyncio.gather(*(client.drain() for client in self._connections))
        for client in list(self._connections):
            client.hang_up()
        self.writer.on_committed = self.writer.on_maintained = None

    def welcome(self, protocol: int) -> Welcome:
        """As Service.welcome."""
        return Welcome(protocol, self.program, file=self._side.file, position=self._log.head().position)

    def joined(self, client: RemoteClient) -> Status:
        """As Service.joined."""
        self.clients.add(client)
        return self._status

    def left(self, client: RemoteClient) -> None:
        """As Service.left."""
        self.clients.discard(client)
        for stream_id in client.held:
            self._drop_holder(stream_id, client)
        for on_closed in self.on_client_closed:
            on_closed(client)

    def gone(self, client: RemoteClient) -> None:
        """As Service.gone."""
        self._connections.discard(client)

    def hold(self, client: RemoteClient, holds: Holds) -> None:
        """As Service.hold."""
        for stream_id in holds.released:
            client.held.discard(stream_id)
            self._drop_holder(stream_id, client)
        for stream_id in holds.held:
            client.held.add(stream_id)
            self._holders[stream_id].add(client)
        known = [(stream_id, self._versions[stream_id]) for stream_id in holds.held if stream_id in self._versions]
        if known:
            client.send(Kind.HELD, known)
        if len(known) < len(holds.held):
            client.start(self._report_versions(client, [one for one in holds.held if one not in self._versions]))

    def report(self) -> None:
        """As Service.report. Cheap while nothing changes: called for each answer."""
        state = self._read_state()
        if state != self._state:
            self._state = state
            self._status = _shown(*state)
            for client in self.clients:
                client.send(Kind.STATUS, self._status)

    def failed(self, error: Exception) -> None:
        """As Service.failed."""
        self._observe.failed(error)

    async def find(self, append: PendingAppend) -> int:
        """As Service.find."""
        return await self._log.run_query(partial(find_recorded, append))

    def _drop_holder(self, stream_id: str, client: RemoteClient) -> None:
        if holders := self._holders.get(stream_id):
            holders.discard(client)
            if not holders:
                del self._holders[stream_id]

    async def _report_versions(self, client: RemoteClient, streams: Sequence[str]) -> None:
        """The hold is in force already: what is appended from now on is reported, too."""
        while True:
            try:
                versions = await self._log.run_query(partial(read_versions, streams))
                break
            except LogUnavailable:
                pass
            except Exception as error:  # noqa: BLE001  reported
                self._observe.failed(error)
            await asyncio.sleep(RETRY_S)
        client.send(Kind.HELD, [(stream_id, versions.get(stream_id, 0)) for stream_id in streams])

    def _on_committed(self, batch: Sequence[QueuedAppend], outcomes: Sequence[Outcome]) -> None:
        """Before the outcomes are sent: publish the head, and tell the clients that are to know what others append."""
        head = self._log.head()
        self._positions.set_head(head)
        versions, holders, events = self._versions, self._holders, 0
        for (append, reply, _), outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, tuple) or not outcome:
                continue
            stream_id = append.stream_id
            events += len(outcome)
            versions.pop(stream_id, None)
            versions[stream_id] = outcome[-1].version
            holding = holders.get(stream_id)
            for one in outcome:
                told = self.clients if is_broadcast(stream_id, one.type) else holding
                if told:
                    header = EventHeader(one.position, stream_id, one.version, one.type)
                    sender = reply.client if isinstance(reply, AppendReply) else None
                    for client in told:
                        if client is not sender:
                            client.add_appended(header)
        while len(versions) > KNOWN_VERSIONS_MAX:
            del versions[next(iter(versions))]
        if head.position != self._reported + events:  # an earlier batch is on disk, too, though it was refused
            search = self._loop.create_task(self._report_range(self._reported, head.position), name="log-server-search")
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)
        self._reported = head.position

    async def _report_range(self, after: int, last: int) -> None:
        """Report the events after `after`, up to `last`, as found on disk; some of them for the second time."""
        while after < last:
            try:
                headers = await self._log.run_query(partial(_read_headers, after, min(last - after, RANGE_PAGE)))
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as error:  # noqa: BLE001  reported
                self._observe.failed(error)
                return
            streams: defaultdict[RemoteClient, set[str]] = defaultdict(set)
            for header in headers:
                self._versions.pop(header.stream_id, None)
                if is_broadcast(header.stream_id, header.type):
                    for client in self.clients:
                        client.add_appended(header)
                for client in self._holders.get(header.stream_id, ()):
                    streams[client].add(header.stream_id)
            for client, changed in streams.items():  # versions, as later events may be reported already
                client.start(self._report_versions(client, list(changed)))
            after = headers[-1].position if headers else last

    def _read_state(self) -> "_State":
        store = self._side.store
        return self._log.damage, store.damage, store.wal_clean.is_set(), self._log.failure

    def _accept(self) -> None:
        """A client has connected. Not awaited: a connection that is accepted while the server closes is not lost."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._observe.failed(error)
            self._loop.remove_reader(self._listener)
            self._retry = self._loop.call_later(ACCEPT_RETRY_S, self._loop.add_reader, self._listener, self._accept)
            return
        if len(self._connections) + len(self._joining) >= CLIENTS_MAX:
            connection.close()
            return
        task = self._loop.create_task(self._join(connection), name="log-server-join")
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, connection: socket.socket) -> None:
        client = RemoteClient(self)
        self._connections.add(client)
        try:
            await self._loop.connect_accepted_socket(lambda: client, connection)
        except OSError as error:
            self._connections.discard(client)
            self._observe.failed(error)


# SqliteLog.damage, the damage that is final, whether no file holds erased content, SqliteLog.failure.
_State = tuple[str | None, str | None, bool, BaseException | None]


def _read_headers(after: int, limit: int, connection: sqlite3.Connection) -> list[EventHeader]:
    query = "SELECT position, stream_id, version, type FROM events WHERE position > ? ORDER BY position LIMIT ?"
    with closing(connection.execute(query, (after, limit))) as rows:
        return [EventHeader(*row) for row in rows]


def _shown(damage: str | None, final: str | None, is_clean: bool, failure: BaseException | None) -> Status:
    return Status(damage, final is not None, not is_clean, None if failure is None else repr(failure))
