"""Parses DATABASE_URL. Malformed values are refused: they must not create a new, empty database."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from chatbot.config.text_checks import QUOTES, path_mistake, text_mistake

DATABASE_ALLOWED = (
    "a file's path such as chatbot.db, or sqlite:///relative.db, or sqlite:////absolute.db,"
    " or postgresql://user:password@host:5432/database"
)
POSTGRES = ("postgresql://", "postgres://")
# The parameters of a PostgreSQL URL that say which database, or which part of it, is meant.
_PLACE_PARAMETERS = frozenset({"host", "port", "dbname", "service", "options", "search_path"})
_POSTGRES_PORT = 5432
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_OPTION = re.compile(r"\?\w+=|\?$")
_KEYWORDS = re.compile(r"(host|hostaddr|port|dbname|user|password|service)\s*=")  # of libpq's other form


def parse_database_url(url: str) -> Path | str:
    """The path of a file (given as a path, or after sqlite:///), or a PostgreSQL URL unchanged.

    Raises ValueError with the reason. A memory database is refused: acknowledged events would not be on disk.
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
    """The path in `url`: all of it, or what follows sqlite:///. Raises ValueError."""
    found = _SCHEME.match(url)
    if found is None:
        return url
    if found[1] != "sqlite":
        raise ValueError(f"no store speaks {_unknown_scheme(url, found[0])}")
    if not url.startswith("sqlite:///"):
        raise ValueError("sqlite: takes three slashes before a relative path, four before an absolute one")
    return url.removeprefix("sqlite:///")


def _unknown_scheme(url: str, scheme: str) -> str:
    """The unsupported scheme of `url`, with a suggestion."""
    shown = f"{scheme}//" if url.startswith(f"{scheme}//") else scheme
    dialect = re.split(r"[+:]", scheme.lower())[0]
    if dialect in ("postgres", "postgresql"):
        return f"{shown}; write postgresql://"
    if dialect in ("sqlite", "sqlite3", "file"):
        return f"{shown}; write the file's path alone, or sqlite:/// before it"
    return shown if shown != scheme else f"{shown} (for a file of that name write ./{scheme}...)"


def without_credentials(url: str) -> str:
    """`url` for display: without everything before its last @, even if malformed, and without its query."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def postgres_place(url: str) -> str:
    """The database that a PostgreSQL URL means: the URL without login, TLS and the like, in one way of writing it."""
    address, _, query = url.partition("?")
    hosts, _, name = address.partition("://")[2].rpartition("@")[2].partition("/")
    places = [one if re.search(r":\d+$", one) else f"{one}:{_POSTGRES_PORT}" for one in hosts.lower().split(",") if one]
    given = sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] in _PLACE_PARAMETERS)
    return f"{POSTGRES[0]}{','.join(places)}/{name}" + (f"?{urlencode(given)}" if given else "")
