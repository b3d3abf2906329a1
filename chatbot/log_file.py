"""What is to be known before the log is served: risks of the settings, and names of its file under which facts could
be lost.
"""

import structlog

from chatbot.config.check import find_hints, find_risks
from chatbot.config.settings import Settings
from chatbot.config.storage import DatabaseSettings
from events.errors import LogUnusable
from events.file_names import is_mount_point, link_count

MOUNTED = (
    "database {path} is a mount point: a file mounted by itself has its write-ahead file in another file system, and"
    " whatever was acknowledged since the last checkpoint is lost with that. "
)


def find_file_risks(database: DatabaseSettings) -> tuple[str, ...]:
    """What an operator should know of the log's file. Raises LogUnusable for one that must not be served."""
    if database.is_postgres:
        return ()
    path = database.path
    risks = []
    try:
        links, is_mounted = link_count(path), is_mount_point(path)
    except OSError as error:
        raise LogUnusable(f"database {path} cannot be looked at: {error.strerror}") from error
    if is_mounted and not database.allow_file_mount:
        raise LogUnusable(
            MOUNTED.format(path=path) + "Mount the folder that holds it, or set database.allow_file_mount = true"
        )
    if is_mounted:
        risks.append(MOUNTED.format(path=path) + "Mount the folder that holds it")
    if links > 1:
        risks.append(
            f"database {path} has {links} names (hard links): a copy of it by another name lacks what is in the"
            " write-ahead file, and a backup that is written to that name destroys the log. Remove the other names"
        )
    return tuple(risks)


def warn_of_risks(settings: Settings, logger: structlog.stdlib.BoundLogger) -> None:
    """Log every risk and hint. Raises LogUnusable as `find_file_risks`."""
    for risk in find_risks(settings):
        logger.warning("settings.risk", risk=risk)
    for hint in find_hints(settings):
        logger.info("settings.hint", hint=hint)
    for risk in find_file_risks(settings.database):
        logger.warning("database.risk", risk=risk)
