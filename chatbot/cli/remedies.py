"""What an operator can do about an error of the log or the projections, by this program's commands and settings.

The log and the projections know neither: their errors say what happened, and carry a `Remedy`.
"""

from events.errors import LogError, Remedy
from projections.errors import ProjectionError

SENTENCES = {
    Remedy.STOP_OR_OTHER_DATABASE: "{problem}; stop it or choose another DATABASE_URL",
    Remedy.UPDATE_OR_OTHER_DATABASE: "{problem}: update the program or choose another DATABASE_URL",
    Remedy.WRITABLE_DIRECTORY_OR_OTHER_DATABASE: (
        "{problem}: make its directory writable or choose another DATABASE_URL"
    ),
    Remedy.OTHER_DATABASE: "{problem}: choose another DATABASE_URL",
    Remedy.OTHER_DATABASE_OR_SCHEMA: (
        "{problem}: choose another database, or another schema by ?search_path=NAME in DATABASE_URL"
    ),
    Remedy.MOVED_SCHEMA: "{problem}: name it in DATABASE_URL (search_path) and start again",
    Remedy.MOVED_SCHEMA_OR_RESTORE: (
        "{problem}: if its schema has another name now, name that in DATABASE_URL (search_path) and start again,"
        " otherwise restore a copy"
    ),
    Remedy.PRIMARY_SERVER: "{problem}: name the primary in DATABASE_URL",
    Remedy.CREDENTIALS: "{problem}: look at DATABASE_URL and pg_hba.conf",
    Remedy.PASSWORD: "{problem}: look at DATABASE_URL",
    Remedy.URL_PARAMETER: "DATABASE_URL: {problem}",
    Remedy.URL_FORM: (
        "DATABASE_URL cannot be understood: it is postgresql://user:password@host:5432/database, with special"
        " characters of user and password as %XX"
    ),
    Remedy.RESTORE_AND_VERIFY: "{problem}. Restore a backup; `chatbot verify` tells more",
    Remedy.RESTORE_SALVAGE_AND_VERIFY: (
        "{problem}. Restore a backup, or copy what still holds into a new log with `chatbot salvage DEST`;"
        " `chatbot verify` tells more"
    ),
    Remedy.RESTORE_OR_SALVAGE: "{problem}: restore a copy, or see `chatbot salvage`",
    Remedy.RESTORE_OR_SALVAGE_OR_NEW_PROJECTIONS: (
        "{problem}: restore a backup, or see `chatbot salvage`. If you replaced the log on purpose, delete {path} and"
        " start again"
    ),
    Remedy.FINISH_MIGRATION: (
        "{problem}: `chatbot migrate` has not finished it; run the same `chatbot migrate` again, which goes on where it"
        " stopped, or delete what it made"
    ),
    Remedy.FINISH_IMPORT: (
        "{problem}: `chatbot import` has not finished it; import the same file again with --resume, or accept what is"
        " there: `chatbot import --accept-partial`"
    ),
    Remedy.FINISH_SALVAGE: (
        "{problem}: `chatbot salvage` has not finished it; run the same `chatbot salvage` again, which starts from the"
        " beginning"
    ),
    Remedy.OWN_PROJECTIONS: ("{problem}; give each service a file of its own with CHATBOT_DATABASE_PROJECTIONS_PATH"),
}


def with_remedy(error: BaseException) -> str:
    """What went wrong, and what to do about it."""
    remedy = error.remedy if isinstance(error, LogError | ProjectionError) else None
    if remedy is None:
        return str(error)
    return SENTENCES[remedy].format(problem=error, path=getattr(error, "path", ""))
