"""Connections to PostgreSQL: their settings, retries, and what their failures mean in words for an operator."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import asyncpg

from events.backoff import backoff_delays
from events.errors import LogUnavailable, LogUnusable, Remedy
from events.integrity.hash_chain import GENESIS
from events.options import LogOptions
from events.record import Head
from events.storage.postgres.postgres_url import malformed, parse_postgres_url

T = TypeVar("T")

ANSWER_TIMEOUT_S = 15.0  # for an answer; then the connection is given up. Longer than what the server itself may take:
STATEMENT_MS = 10_000  # the server ends what takes longer
CLOSE_TIMEOUT_S = 2.0  # for a connection to be closed
NEXT_HOST_S = 0.5  # for a host to answer; then the URL's next one is tried, too: the first may have vanished
RETRY_S = (0.05, 1.0)  # pauses between attempts: the first and the longest

# An acknowledged commit is on disk, whatever the server's setting.
FLUSH = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_HEAD = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"

# They override those of URL, role and database. Plans use indexes only: with the planner's estimates for a table that
# was created a minute ago it would scan all of it.
# Set once connected: PgBouncer refuses most of them as startup parameters.
_SETTINGS: Final = {
    "default_transaction_isolation": "read committed",  # with the lock, a statement must see all commits
    "statement_timeout": str(STATEMENT_MS),
    "idle_in_transaction_session_timeout": "60000",
    "tcp_keepalives_idle": "15",  # a client whose host has vanished is disconnected within 30 s
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "chatbot.notifies": "on",  # see stream_holders.NOTIFIES_ITSELF
}

_WORDS = {
    "25006": "it takes no writes (a standby, or default_transaction_read_only is on)",
    "26000": "a pooler in transaction mode is in between: have it use pool_mode = session",
    "28000": "it does not let this user in",
    "28P01": "the user's password is wrong",
    "3D000": "there is no such database: create it",
    "3F000": "its schema is missing or has another name now",
    "40001": "it met too many concurrent changes",
    "40P01": "it met a deadlock with another program",
    "42501": "this user may not do that: grant it, or let this user own the table `events`",
    "42883": "the log's procedure is missing: start this program again",
    "42P01": "the table `events` is missing",
    "53100": "the server's disk is full: free some space",
    "53200": "the server is out of memory",
    "53300": "the server has no connection left: raise max_connections, or lower database.read_connections",
    "55P03": "another program keeps the log locked",
    "57014": "it took too long, and was ended",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed and is recovering",
    "57P03": "the server is starting up",
    "CHL01": "it holds another log than the one that was opened: stop, and name the right database and schema",
    "XX001": "the server finds its data damaged: restore a copy",
    "XX002": "the server finds an index damaged: REINDEX TABLE events, then verify the log",
}

_REMEDIES = {
    "25006": Remedy.PRIMARY_SERVER,
    "28000": Remedy.CREDENTIALS,
    "28P01": Remedy.PASSWORD,
    "3F000": Remedy.MOVED_SCHEMA,
    "42P01": Remedy.MOVED_SCHEMA_OR_RESTORE,
}

# Another attempt may succeed, with a new connection: a server that restarts, a standby that takes over, a cut cable.
_PASSING = frozenset({"25006", "40001", "40P01", "53300", "57014", "57P01", "57P02", "57P03"})

# Classes of errors that abort a transaction before its commit: nothing was recorded. Not in here: a connection that
# ends (08, 57), what the system does (58, XX), and 40003, by which the server says that it does not know.
_HARMLESS_CLASSES = frozenset({
    "0A", "22", "23", "25", "26", "28", "2F", "3D", "3F", "40", "42", "53", "54", "55", "CH", "P0",
})  # fmt: skip
_OUTCOME_UNKNOWN = "40003"

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class Unconfirmed(TimeoutError):
    """The server has committed, and given up waiting for a standby to confirm it."""


def without_credentials(url: str) -> str:
    """The URL for people to see: without credentials and options, even if it is malformed."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def is_passing(error: BaseException) -> bool:
    """Whether a later attempt may succeed."""
    code = _code(error)
    return code in _PASSING or code.startswith("08") or not isinstance(error, asyncpg.PostgresError)


def is_harmless(error: BaseException) -> bool:
    """Whether after `error` certainly nothing was committed."""
    code = _code(error)
    return code[:2] in _HARMLESS_CLASSES and code != _OUTCOME_UNKNOWN


def is_damage(error: BaseException) -> bool:
    """Whether `error` means that the stored data is invalid or another log's, which no retry will repair."""
    return _code(error) in ("CHL01", "XX001", "XX002")


def explain(error: BaseException, label: str) -> str:
    """The cause in words for an operator."""
    code = _code(error)
    if code[:2] in ("23", "P0"):
        return f"database {label}: another program writes to it; stop that program ({error})"
    if code.startswith("08") and str(error):
        return f"database {label}: the server or a pooler ended the connection: {error} ({code})"
    if code.startswith("08") or isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return f"database {label}: the connection was lost"
    if isinstance(error, Unconfirmed):
        return f"database {label}: no standby confirms what is recorded: look at synchronous_standby_names"
    if isinstance(error, TimeoutError):
        return f"database {label} does not answer: look at the server and the network"
    if isinstance(error, asyncpg.PostgresError):
        return f"database {label}: {_WORDS.get(code) or error} ({code})"
    return f"database {label} cannot be reached: {error}"


def unavailable(error: BaseException, label: str) -> LogUnavailable:
    """The refusal that `error` means."""
    return LogUnavailable(explain(error, label), remedy=_REMEDIES.get(_code(error)))


def _code(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


class Database:
    """A database that holds a log: where, and how to connect to it. `label` is what people may see of the URL."""

    def __init__(self, url: str, options: LogOptions, *, read_only: bool = False) -> None:
        self.label = without_credentials(url)
        self.options = options
        self._target = parse_postgres_url(url)
        self._ssl = ssl.create_default_context() if self._target.has_system_roots else None
        self._read_only = read_only
        self._last_dsn = ""  # of the host that the last connection was made to

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """A new connection, with `settings` of the server's own. Raises FAILURES, or LogUnusable for a wrong URL."""
        lock_ms = max(1, round(self.options.busy_timeout_s * 1000))  # 0 would mean without a limit
        wanted = {**self._target.settings, **_SETTINGS, "lock_timeout": str(lock_ms), **settings}
        if self._read_only:
            wanted["default_transaction_read_only"] = "on"
        connection = await self._connection()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await _configure(connection, wanted)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connection(self) -> asyncpg.Connection:
        """To the first host that answers and suits, beginning with the one that did so last. Raises FAILURES,
        LogUnusable.
        """
        hosts = sorted(self._target.dsns, key=lambda dsn: dsn != self._last_dsn)
        connection, self._last_dsn = await _first_connection([partial(self._connect_to, dsn) for dsn in hosts])
        return connection

    async def _connect_to(self, dsn: str) -> tuple[asyncpg.Connection, str]:
        """Raises FAILURES, LogUnusable."""
        target, startup = self._target, {"application_name": self._target.application_name}
        if target.options:
            startup["options"] = target.options
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=target.connect_timeout_s,
                server_settings=startup,
                ssl=self._ssl,
                target_session_attrs=None if self._read_only or target.has_target else "read-write",
            )
        except (ValueError, TypeError, asyncpg.exceptions.ClientConfigurationError):
            raise malformed() from None  # without its cause: that may quote the password
        except asyncpg.exceptions.TargetServerAttributeNotMatched:
            raise asyncpg.exceptions.ReadOnlySQLTransactionError("no server takes writes") from None
        return connection, dsn

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns. It is repeated after a passing failure, for `busy_timeout_s` at most.

        Raises LogUnavailable for a failure that lasts, and what else `attempt` raises.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.options.busy_timeout_s
        for pause_s in backoff_delays(*RETRY_S):
            try:
                return await attempt()
            except FAILURES as error:
                if not is_passing(error) or loop.time() + pause_s > deadline_s:
                    raise unavailable(error, self.label) from error
            await asyncio.sleep(pause_s)
        raise AssertionError("backoff never ends")

    async def check_not_rewound(self, connection: asyncpg.Connection, known: Head) -> None:
        """Raises DatabaseRewound where the database lacks what it had acknowledged: it is a standby that took over
        without it, or an old copy.
        """
        if known.position:
            digest = await connection.fetchval("SELECT digest FROM events WHERE position = $1", known.position)
            if digest != known.digest:
                raise DatabaseRewound(self.rewound_message(known.position))

    def rewound_message(self, position: int) -> str:
        """The words for a database in which a known event is missing."""
        return (
            f"database {self.label} has lost events that were recorded (position {position} is gone or another), or"
            " holds another log now: stop, and name the right database and schema, or restore a copy that has them"
        )


class DatabaseRewound(LogUnavailable):
    """The database lacks an event that this process knows to be acknowledged."""


_Attempt = Callable[[], Coroutine[None, None, tuple[asyncpg.Connection, str]]]


async def _first_connection(attempts: Sequence[_Attempt]) -> tuple[asyncpg.Connection, str]:
    """Of the first attempt that succeeds. The next one begins when one has failed, or after NEXT_HOST_S.

    Raises what one of them has raised: rather what a server said than that a host is out of reach.
    """
    running: set[asyncio.Task[tuple[asyncpg.Connection, str]]] = set()
    errors: list[BaseException] = []
    waiting = list(attempts)
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(waiting.pop(0)(), name="log-connect"))
            pause_s = NEXT_HOST_S if waiting else None
            done, _ = await asyncio.wait(running, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                errors.append(error)
        raise min(errors, key=lambda error: isinstance(error, OSError))
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_terminate)


def _terminate(attempt: "asyncio.Task[tuple[asyncpg.Connection, str]]") -> None:
    """End the connection of an attempt that was too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].terminate()


async def _configure(connection: asyncpg.Connection, settings: Mapping[str, str]) -> None:
    """Raises FAILURES, and LogUnusable for a setting that the server does not take."""
    calls = ", ".join(f"set_config({_literal(name)}, {_literal(value)}, false)" for name, value in settings.items())
    try:
        await connection.execute(f"SELECT {calls}")
    except asyncpg.PostgresError as error:
        if _code(error)[:2] in ("22", "42"):
            problem = f"a parameter is not understood: {error} ({_code(error)})"
            raise LogUnusable(problem, remedy=Remedy.URL_PARAMETER) from error
        raise


def _literal(text: str) -> str:
    """`text` in SQL, whatever standard_conforming_strings says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


async def close_gracefully(connection: asyncpg.Connection | None) -> None:
    """Close a connection, by the protocol where the server answers. Never raises."""
    if connection is not None:
        try:
            await connection.close(timeout=CLOSE_TIMEOUT_S)
        except FAILURES:
            connection.terminate()


async def read_head(connection: asyncpg.Connection) -> Head:
    """The end of the log now. Raises what asyncpg raises."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        row = await connection.fetchrow(_HEAD)
    return Head(*row) if row else Head(0, GENESIS)
