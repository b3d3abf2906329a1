"""Whether the settings of a process name the database that the other processes of its master use."""

from chatbot.config.settings import Settings
from chatbot.workers.inherited_fds import WriterFds
from events.errors import LogUnusable

NO_WRITER = "the master has started no writer process for a log in a file: restart the service"


def check_same_database(settings: Settings, fds: WriterFds) -> None:
    """Refuse files other than those that the master has started with: all processes must use the same.

    Raises LogUnusable.
    """
    database = settings.database
    if database.is_postgres or database.files != (fds.database, fds.projections):
        now = database.shown if database.is_postgres else " and ".join(database.files)
        raise _another(now, f"{fds.database} and {fds.projections}")


def check_same_place(settings: Settings, served: str) -> None:
    """The same for a log in PostgreSQL. `served`: empty if the master, of an older version, has not said which one.

    Raises LogUnusable.
    """
    if not settings.database.is_postgres:
        raise LogUnusable(NO_WRITER)
    now = settings.database.postgres_place
    if served and now != served:
        raise _another(now, served)


def _another(now: str, served: str) -> LogUnusable:
    return LogUnusable(
        f"the settings name another database ({now}) than the one that is served ({served}): a reload cannot change"
        " it; restart the service, or restore the settings"
    )
