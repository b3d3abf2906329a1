"""Whether the settings of a process name the database that the other processes of its master use."""

from chatbot.config.settings import Settings
from chatbot.workers.inherited_fds import WriterFds
from events.errors import LogUnusable


def check_same_database(settings: Settings, fds: WriterFds) -> None:
    """Refuse files other than those that the master has started with: all processes must use the same.

    Raises LogUnusable.
    """
    database = settings.database
    if database.is_postgres or database.files != (fds.database, fds.projections):
        now = database.shown if database.is_postgres else " and ".join(database.files)
        raise LogUnusable(
            f"the settings name another database ({now}) than the one that is served ({fds.database} and"
            f" {fds.projections}): a reload cannot change it; restart the service, or restore the settings"
        )
