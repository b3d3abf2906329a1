"""Settings of the databases: the log and the projections."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from chatbot.config.database_url import (
    DATABASE_ALLOWED,
    POSTGRES,
    parse_database_url,
    postgres_place,
    without_credentials,
)


class DatabaseSettings(Struct, frozen=True):
    """[database] The log and its projections: two SQLite files, or both in a PostgreSQL database."""

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
            description="The projections' file, relative to the log's folder. It can be deleted: it is rebuilt from the"
            " log. Not used with PostgreSQL, where the projections are in the log's database.",
            extra={"allowed": "a file's path, another than the log's"},
        ),
    ] = "projections.db"
    allow_file_mount: Annotated[
        bool,
        Meta(
            description="Serve a log whose file is mounted without its folder: its write-ahead file is then on another"
            " file system, and a crash may lose acknowledged events."
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
            ge=1, le=1_000_000, description="Appends that wait for the disk; more are refused with 503 (backpressure)."
        ),
    ] = 10000
    append_queue_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Bytes of content in the appends that wait for the disk; more are refused with 503.",
        ),
    ] = 67108864
    append_batch_max: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Events written in one transaction: they share one fsync."),
    ] = 512
    commit_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Seconds at most that a commit waits for as many appends as the last two had (group commit).",
            extra={"formerly": ("database.append_gather_s",)},
        ),
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
            description="Bytes reserved in a file next to chatbot.db and released while something is erased on a full"
            " disk; at most an eighth of the free space. 0: none.",
        ),
    ] = 33_554_432
    read_page_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Events that one read of the log returns at most: limits its memory.")
    ] = 1000
    projection_batch_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Events folded into the projections in one transaction.")
    ] = 2000
    projection_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="Seconds for which events are collected before they are folded, unless a read waits for them or"
            " they are many; at most 0.05 while somebody follows a list of sessions.",
        ),
    ] = 0.2
    read_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Connections (SQLite: a thread each) that read the log: one for short reads, the others for"
            " long ones. PostgreSQL: a process has six more.",
        ),
    ] = 2
    cache_kib: Annotated[int, Meta(ge=64, le=16_777_216, description="KiB of page cache for each connection.")] = 8192
    text_cache_bytes: Annotated[
        int,
        Meta(ge=0, le=1 << 40, description="Bytes of recently read message texts that are cached in memory; 0: none."),
    ] = 8_388_608
    wal_limit_bytes: Annotated[
        int,
        Meta(
            ge=32_768,
            le=1 << 40,
            description="Bytes of the write-ahead file at which appends wait for a WAL checkpoint.",
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
    def postgres_place(self) -> str:
        """Which PostgreSQL database it is, without login and the like; empty for a log in a file."""
        return postgres_place(self.url) if self.is_postgres else ""

    @property
    def files(self) -> tuple[str, str]:
        """The absolute paths of the log's file and of the projections'. Raises ValueError as `path`."""
        return str(self.path.absolute()), str(self.projections.absolute())

    @property
    def projections(self) -> Path:
        """The projections' file."""
        return Path(self.projections_path) if self.is_postgres else self.path.parent / self.projections_path
