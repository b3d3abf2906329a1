"""Settings of the log lines for operators."""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class LoggingSettings(Struct, frozen=True):
    """[logging] Logs, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Meta(description="The least severe level that is written."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="console for people, json for machines (a line each); auto asks whether it is a terminal."),
    ] = "auto"
    access_log: Annotated[
        bool,
        Meta(description="Write a line for each request (request.served), at level info; probes only when they fail."),
    ] = True
