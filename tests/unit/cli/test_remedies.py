"""Errors of the log and the projections are told with what helps, in this program's commands and settings."""

import string
from pathlib import Path

import pytest

from chatbot.cli.remedies import SENTENCES, with_remedy
from events.errors import LogDamaged, LogInUse, LogUnavailable, LogUnusable, Remedy
from events.storage.incomplete_log import LogIncomplete, WritingCommand
from events.storage.postgres.postgres_url import parse_postgres_url
from projections.errors import LogReplaced, ProjectionsInUse


def test_each_remedy_has_its_words() -> None:
    assert SENTENCES.keys() == set(Remedy)
    named = {name for text in SENTENCES.values() for _, name, _, _ in string.Formatter().parse(text) if name}
    assert named == {"problem", "path"}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (LogUnavailable("the log is closed"), "the log is closed"),
        (ValueError("no error of the log"), "no error of the log"),
        (
            LogInUse("chatbot.db", "7"),
            "database chatbot.db is in use by process 7; stop it or choose another DATABASE_URL",
        ),
        (
            LogDamaged(Path("chatbot.db"), "a {brace}"),
            "database chatbot.db is damaged: a {brace}. It is not served and was not changed. Restore a backup, or copy"
            " what still holds into a new log with `chatbot salvage DEST`; `chatbot verify` tells more",
        ),
        (
            LogDamaged("postgresql://host/chat", "torn"),
            "database postgresql://host/chat is damaged: torn. It is not served and was not changed. Restore a backup;"
            " `chatbot verify` tells more",
        ),
        (
            LogReplaced("projections.db", "its first event is another"),
            "the log does not have what its projections (projections.db) were made from: its first event is another."
            " Events were lost (a write-ahead log deleted, a file cut or replaced): restore a backup, or see `chatbot"
            " salvage`. If you replaced the log on purpose, delete projections.db and start again",
        ),
        (
            ProjectionsInUse("projections.db"),
            "projections.db belongs to another running process; give each service a file of its own with"
            " CHATBOT_DATABASE_PROJECTIONS_PATH",
        ),
        (
            LogIncomplete("chatbot.db", WritingCommand.MIGRATE),
            "database chatbot.db is not whole: `chatbot migrate` has not finished it; run the same `chatbot migrate`"
            " again, which goes on where it stopped, or delete what it made",
        ),
    ],
)
def test_an_error_is_told_with_what_helps(error: Exception, sentence: str) -> None:
    assert with_remedy(error) == sentence


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("require_auth=none", "DATABASE_URL: the parameter require_auth is not supported here: leave it out"),
        ("connect_timeout=soon", "DATABASE_URL: the parameter connect_timeout is a number of seconds"),
        (
            "no parameters",
            "DATABASE_URL cannot be understood: it is postgresql://user:password@host:5432/database, with special"
            " characters of user and password as %XX",
        ),
    ],
)
def test_a_fault_of_the_url_names_its_setting(query: str, sentence: str) -> None:
    with pytest.raises(LogUnusable) as refused:
        parse_postgres_url(f"postgresql://host/chat?{query}")
    assert with_remedy(refused.value) == sentence
