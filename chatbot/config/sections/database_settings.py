"""What DATABASE_URL means. A value that is nearly right must not open a new, empty database.

Settings of what is kept: the databases, and the sessions' lives.
"""

import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from chatbot.config.text_checks import QUOTES, path_mistake, text_mistake

DATABASE_ALLOWED = (
    "a file's path such as chatbot.db, or sqlite:///relative.db, or sqlite:////absolute.db,"
    " or postgresql://user:password@host:5432/database"
)
POSTGRES = ("postgresql://", "postgres://")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_OPTION = re.compile(r"\?\w+=|\?$")
_KEYWORDS = re.compile(r"(host|hostaddr|port|dbname|user|password|service)\s*=")  # of libpq's other form


def parse_database_url(url: str) -> Path | str:
    """A file: a bare path, or one behind sqlite:/// (so an absolute one has four slashes). Or a PostgreSQL database:
    the URL itself.

    Raises ValueError with the reason. A memory database is refused: what was acknowledged would not be on disk.
    """
    if not url.strip():
        raise ValueError("this names no file")
    if url != url.strip():
        raise ValueError("there is white space around it")
    if mistake := text_mistake(url, "DATABASE_URL"):
        raise ValueError(mistake)
    if url.startswith(POSTGRES):
        return _postgres(url)
    if ":memory:" in url or "mode=memory" in url:
        raise ValueError("a database in memory keeps nothing")
    if _KEYWORDS.match(url):
        raise ValueError("postgresql: keywords are not understood; write them as a URL")
    path = _path_of(url)
    if _OPTION.search(path):
        raise ValueError("options behind ? are not supported")
    if not path or path.endswith(("/", "\\")):
        raise ValueError("this names no file")
    if mistake := path_mistake(path):
        raise ValueError(mistake)
    return Path(path)


def _postgres(url: str) -> str:
    if url[-1] in QUOTES:
        raise ValueError("there is a quote at one end of it")
    if re.search(r"\$\{|\{\{", url):
        raise ValueError("variables are not replaced here")
    if not without_credentials(url).partition("://")[2].partition("/")[2]:
        raise ValueError("postgresql: names no database")
    return url


def _path_of(url: str) -> str:
    """The path that `url` is, or that stands behind sqlite:///. Raises ValueError."""
    found = _SCHEME.match(url)
    if found is None:
        return url
    if found[1] != "sqlite":
        raise ValueError(f"no store speaks {_unknown_scheme(url, found[0])}")
    if not url.startswith("sqlite:///"):
        raise ValueError("sqlite: takes three slashes before a relative path, four before an absolute one")
    return url.removeprefix("sqlite:///")


def _unknown_scheme(url: str, scheme: str) -> str:
    """The scheme of `url`, which no store has, and what was probably meant."""
    shown = f"{scheme}//" if url.startswith(f"{scheme}//") else scheme
    dialect = re.split(r"[+:]", scheme.lower())[0]
    if dialect in ("postgres", "postgresql"):
        return f"{shown}; write postgresql://"
    if dialect in ("sqlite", "sqlite3", "file"):
        return f"{shown}; write the file's path alone, or sqlite:/// before it"
    return shown if shown != scheme else f"{shown} (for a file of that name write ./{scheme}...)"


def without_credentials(url: str) -> str:
    """However badly it is written: nothing before its last @ is shown, and no option."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


class DatabaseSettings(Struct, frozen=True):
    """[database] The log, an SQLite file or a PostgreSQL database, and the projections, always a file."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            description="The log's file, relative to the current directory: the one file to back up. Or a PostgreSQL"
            " database, for several machines.",
            extra={"env": "DATABASE_URL", "allowed": DATABASE_ALLOWED},
        ),
    ] = "chatbot.db"
    projections_path: Annotated[
        str,
        Meta(
            min_length=1,
            description="The projections' file, relative to the log's folder (with PostgreSQL: the current one)."
            " Disposable: rebuilt from the log.",
            extra={"allowed": "a file's path, another than the log's"},
        ),
    ] = "projections.db"
    allow_file_mount: Annotated[
        bool,
        Meta(
            description="Serve a log's file that is mounted by itself, not with its folder: its write-ahead file is"
            " then elsewhere, and a crash may lose what was acknowledged."
        ),
    ] = False
    busy_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Seconds to wait for another program's lock (a backup), or for a PostgreSQL server that"
            " restarts, before an append fails.",
        ),
    ] = 5.0
    append_queue_max: Annotated[
        int,
        Meta(
            ge=1, le=1_000_000, description="Appends that wait for the disk; more are refused with 503, not piled up."
        ),
    ] = 10000
    append_queue_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20, le=1 << 40, description="Bytes of content that wait for the disk, however few appends they are."
        ),
    ] = 67108864
    append_batch_max: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Events written in one transaction: they share one fsync."),
    ] = 512
    append_gather_s: Annotated[
        float,
        Meta(ge=0, le=1, description="Seconds at most that a commit waits for as many appends as the last two had."),
    ] = 0.004
    erase_wait_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="Seconds an erasure waits for readers (PostgreSQL: for VACUUM), so that no file"
            " still holds the text.",
        ),
    ] = 5.0
    erase_reserve_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 40,
            description="Bytes kept in a file beside chatbot.db, and given while something is erased on a full disk;"
            " at most an eighth of what is free. 0: none.",
        ),
    ] = 33_554_432
    read_page_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Events read from the log at once: what one read holds in memory.")
    ] = 1000
    projection_batch_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Events folded into the projections in one transaction.")
    ] = 2000
    projection_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="Seconds events gather before they are folded, while no read waits for them: cheaper by far.",
        ),
    ] = 0.05
    read_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Connections (SQLite: a thread each) that read the log: one for short reads, the others for"
            " long ones. PostgreSQL: a node has two more.",
        ),
    ] = 2
    cache_kib: Annotated[int, Meta(ge=64, le=16_777_216, description="KiB of page cache for each connection.")] = 8192
    text_cache_bytes: Annotated[
        int,
        Meta(
            ge=0, le=1 << 40, description="Bytes of messages' texts kept in memory, as they were read lately; 0: none."
        ),
    ] = 8_388_608
    wal_limit_bytes: Annotated[
        int,
        Meta(
            ge=32_768,
            le=1 << 40,
            description="Bytes of the write-ahead file at which appends wait until it is folded in.",
        ),
    ] = 67108864

    @property
    def path(self) -> Path:
        """The log's file. Raises ValueError where the log is in PostgreSQL, or for a url that `load` has refused."""
        place = parse_database_url(self.url)
        if isinstance(place, str):
            raise ValueError("this needs a log in a file; DATABASE_URL names a PostgreSQL database")  # noqa: TRY004
        return place

    @property
    def place(self) -> Path | str:
        """Where the log is, for events.factory. Raises ValueError for a url that `load` has refused."""
        return parse_database_url(self.url)

    @property
    def is_postgres(self) -> bool:
        """Whether the log is in PostgreSQL."""
        return self.url.startswith(POSTGRES)

    @property
    def shown(self) -> str:
        """Where the log is, for people: without the credentials of a URL."""
        return without_credentials(self.url) if self.is_postgres else str(self.path)

    @property
    def projections(self) -> Path:
        """The projections' file."""
        return Path(self.projections_path) if self.is_postgres else self.path.parent / self.projections_path


class SessionSettings(Struct, frozen=True):
    """[sessions] Lives of sessions and of the actors that own them."""

    timeout_hours: Annotated[
        float,
        Meta(
            ge=0,
            le=876_000,
            description="Hours after its last access at which a session expires; 0: never. A session may ask for its"
            " own.",
            extra={"env": "SESSION_TIMEOUT_HOURS"},
        ),
    ] = 24.0
    access_resolution_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="Seconds between two recorded accesses of a session, so reads stay cheap."),
    ] = 60.0
    erase_expired_after_hours: Annotated[
        float,
        Meta(ge=0, le=876_000, description="Hours after its expiry at which a session is erased for good; 0: never."),
    ] = 0.0
    erase_after_consistent_hours: Annotated[
        float,
        Meta(
            ge=0,
            le=8_760,
            description="Hours that the clock must have run without a jump, since the start or the last one, before"
            " expired sessions are erased: a wrong clock erases nothing.",
        ),
    ] = 1.0
    idle_timeout_s: Annotated[
        float, Meta(gt=0, le=86400, description="Seconds without a command after which an actor leaves memory.")
    ] = 60.0
    live_max: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Actors in memory at once; beyond it idle ones go, then 503.")
    ] = 10000
    mailbox_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Commands that wait in one actor's mailbox; more are refused.")
    ] = 64
    pending_max: Annotated[
        int, Meta(ge=0, le=1000, description="Messages that wait for one session's running reply; more are refused.")
    ] = 8
    retry_interrupted: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Times that a reply cut off by a stop or crash is begun anew after the restart; 0: never.",
        ),
    ] = 0
    fork_messages_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Longest history that a fork begins with, in messages.")
    ] = 10000
    ask_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds a request waits for its actor's answer: then 503, not a hang.")
    ] = 30.0
    metadata_max_bytes: Annotated[
        int, Meta(ge=2, le=1_048_576, description="Largest metadata of a session, in bytes of JSON.")
    ] = 16384
    metadata_keys_max: Annotated[int, Meta(ge=1, le=10_000, description="Most keys in a session's metadata.")] = 64
    title_max_chars: Annotated[int, Meta(ge=1, le=10_000, description="Longest title of a session, in characters.")] = (
        200
    )
