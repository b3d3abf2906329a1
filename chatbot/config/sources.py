"""Reads settings from their sources (config.toml, .env, environment, command line) and converts their values: from a
source's text to the setting's type, and to text for people, without secrets.

The old name of a renamed setting works, with a warning; in one source, old and new name must not have different values.

An empty value in .env, the environment or the command line counts as not set, so that `NAME=${NAME:-}` in a start
script changes nothing; for a list it means the empty list (CORS_ORIGINS= allows no other web page). API keys that are
set but empty are a fault: the service would otherwise start without authentication.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec import NODEFAULT, Struct, ValidationError, convert, to_builtins
from msgspec.structs import replace

from chatbot.config.dotenv import DotenvError, parse_dotenv
from chatbot.config.service_links import is_service_link
from chatbot.config.settings import (
    PREFIX,
    Setting,
    Settings,
    by_env,
    by_former_env,
    by_former_name,
    closest_env,
    closest_name,
    inventory,
    likely_misspelling,
)
from chatbot.config.text_checks import find_mistake, strip_texts

MASK = "***"
_SWITCH = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
_SHOWN_MAX_CHARS = 80  # a system prompt may be a page long; a line of the listing is not
_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")
_QUERY_SECRETS = re.compile(r"(?<=[?&])([^=&\s]*(?:key|token|secret|password|sig)[^=&\s]*=)[^&\s\"]+", re.IGNORECASE)


class InvalidValue(Exception):
    """A value that its setting does not allow. The message is the reason, or empty if `allowed` says it."""


def parse_text(setting: Setting, text: str) -> Any:
    """Parse the text of an environment variable, .env or the command line. Raises InvalidValue."""
    parse = _PARSERS.get(setting.kind)
    try:
        value = parse(text.strip()) if parse else text
    except (ValueError, KeyError):
        raise InvalidValue from None  # the cause quotes the text, which may be a secret
    return parse_toml(setting, value)


def parse_toml(setting: Setting, value: Any) -> Any:
    """`value` as the setting's type, within its bounds. Raises InvalidValue."""
    if not setting.prose:
        value = strip_texts(value)
        if mistake := find_mistake(value, setting.env):
            raise InvalidValue(mistake)
    try:
        return convert(value, setting.type)
    except ValidationError:
        raise InvalidValue from None


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _table(text: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for number, item in enumerate(_list(text), start=1):
        name, colon, secret = item.partition(":")
        if not colon:
            raise InvalidValue(f"pair {number} has no colon")
        if name.strip() in table:
            raise InvalidValue(f"pair {number} has the name of an earlier one")
        table[name.strip()] = secret.strip()
    if not table:
        raise InvalidValue("it is set but empty; unset it to have none")
    return table


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: _SWITCH[text.lower()],
    "choice": str.lower,
    "list": _list,
    "table": _table,
    "tables": json.loads,
}


def to_toml(value: Any) -> str:
    """`value` as config.toml writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {to_toml(item)}' for key, item in value.items())}}}"
    return str(value)


def shown(setting: Setting, value: Any) -> str:
    """A setting's value for display: as `visible`, with secrets masked."""
    if setting.kind == "tables":
        return f"{len(value)} below" if value else "[]"
    if setting.secret and isinstance(value, dict):
        return ", ".join(f"{name}: {MASK}" for name in value) or "none"
    return MASK if setting.secret and value else visible(value)


def refused(setting: Setting, raw: Any) -> str:
    """A refused value for display. Secrets are masked completely: names, too, as name and secret may be swapped."""
    return MASK if setting.secret else visible(raw)


def visible(value: Any) -> str:
    """Any value on one line, shortened, and without credentials in URLs."""
    text = _QUERY_SECRETS.sub(rf"\1{MASK}", _CREDENTIALS.sub(f"{MASK}@", to_toml(value)))
    text = text.encode(errors="backslashreplace").decode()  # the environment may hold bytes that are no text
    return text if len(text) <= _SHOWN_MAX_CHARS else text[: _SHOWN_MAX_CHARS - 1] + "…"


COMMAND_LINE = {"host": "server.host", "port": "server.port", "workers": "server.workers"}
_SENSITIVE = re.compile("auth|key|secret|password", re.IGNORECASE)


class Source(Struct):
    """What one source contains: values by the setting's name, where each was found, and all faults.

    `renamed` are warnings about settings that it calls by an old name.
    """

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    faults: list[str] = []
    faulty_names: set[str] = set()
    renamed: list[str] = []

    def add_value(
        self, setting: Setting, raw: Any, origin: str, parse: Callable[[Setting, Any], Any] = parse_text
    ) -> None:
        """Keep what `parse` makes of `raw`, or note why it is not allowed."""
        if parse is parse_text and not raw.strip() and setting.kind not in ("list", "table"):
            return
        try:
            if setting.kind == "tables":
                self._add_tables(setting, _PARSERS["tables"](raw) if parse is parse_text else raw, origin)
            else:
                self._set(setting.name, parse(setting, raw), origin)
        except ValueError:  # of JSON; its message quotes the text, which may have secrets
            self._refuse(setting, raw, origin, "it is no JSON")
        except InvalidValue as invalid:
            self._refuse(setting, raw, origin, str(invalid))

    def _add_tables(self, setting: Setting, raw: Any, origin: str) -> None:
        """Keep an array of tables, or note each fault in them by its path. Raises InvalidValue."""
        if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
            raise InvalidValue(f"each is a table [[{setting.name}]]")
        faults_before = len(self.faults)
        tables = [self._read_table(setting, f"{setting.name}[{no}]", table, origin) for no, table in enumerate(raw)]
        if len(self.faults) > faults_before:
            self.faulty_names.add(setting.name)
            return
        try:
            self._set(setting.name, convert(tables, setting.type), origin)
        except ValidationError:
            raise InvalidValue from None

    def _read_table(self, setting: Setting, path: str, table: dict[str, Any], origin: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, raw in table.items():
            column = setting.columns.get(key)
            if column is None:
                close = get_close_matches(key, setting.columns, n=1)
                advice = f"did you mean {path}.{close[0]}?" if close else f"it has {', '.join(setting.columns)}"
                self.faults.append(f"{path}.{key} = {MASK} ({origin}): no such setting; {advice}")
                continue
            try:
                values[key] = to_builtins(parse_toml(column, raw))
            except InvalidValue as invalid:
                self._refuse(replace(column, section=path), raw, origin, str(invalid))
        for column in setting.columns.values():
            if column.default is NODEFAULT and column.key not in table:
                self.faults.append(f"{path}.{column.key} ({origin}): missing; allowed: {column.allowed}")
        return values

    def _refuse(self, setting: Setting, raw: Any, origin: str, reason: str) -> None:
        self.faulty_names.add(setting.name)
        self.faults.append(
            f"{setting.name} = {refused(setting, raw)} ({origin}): {reason}{'; ' if reason else ''}allowed:"
            f" {setting.allowed}"
        )

    def _set(self, name: str, value: Any, origin: str) -> None:
        """Raises InvalidValue if the setting's other name, old or new, has given it another value."""
        if self.values.setdefault(name, value) != value:
            raise InvalidValue(f"{self.origins[name]} gives this setting another value")
        self.origins.setdefault(name, origin)

    def add_renamed(self, old: str, new: str, origin: str) -> None:
        """Note that the source calls the setting or variable `new` by its old name."""
        self.renamed.append(f"{old} ({origin}) is now {new}; the old name works until 1.0")

    def add_unknown(self, name: str, raw: Any, origin: str, meant: str | None) -> None:
        """Note that no setting is called `name`; `meant` is the most similar name, or None."""
        hidden = _SENSITIVE.search(f"{name} {meant}")  # a misspelt secret is a secret
        advice = f"did you mean {meant}?" if meant else "`chatbot config` lists them all"
        self.faults.append(f"{name} = {MASK if hidden else visible(raw)} ({origin}): no such setting; {advice}")


def read_config(path: Path, label: str, *, required: bool) -> Source:
    """The settings of a TOML file; `label` is what people call it. A missing file is a fault only if `required`."""
    source = Source()
    if not required and not path.exists():
        return source
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        source.faults.append(f"{label}: cannot be read: {error}")
        return source
    for section, content in document.items():
        if not isinstance(content, dict):
            source.add_unknown(section, content, label, closest_name(section))
        elif section not in Settings.__struct_fields__:
            close = get_close_matches(section, Settings.__struct_fields__, n=1) or Settings.__struct_fields__
            source.faults.append(f"[{section}] ({label}): no such section; did you mean {' or '.join(close)}?")
        else:
            for key, raw in content.items():
                _take_from_config(source, f"{section}.{key}", raw, label)
    return source


def _take_from_config(source: Source, name: str, raw: Any, label: str) -> None:
    if setting := inventory().get(name):
        source.add_value(setting, raw, label, parse_toml)
    elif renamed := by_former_name().get(name):
        source.add_renamed(name, renamed.name, label)
        source.add_value(renamed, raw, f"{label} {name}", parse_toml)
    else:
        source.add_unknown(name, raw, label, closest_name(name))


def read_dotenv(path: Path) -> Source:
    """The settings of a .env file, or nothing where there is none.

    Other programs may use the file, too, so unknown names are ignored, except likely misspellings, which are faults.
    """
    source = Source()
    if not path.is_file():  # .env may be the folder of a virtual environment
        return source
    try:
        values = parse_dotenv(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        source.faults.append(f".env: cannot be read: {error}")
        return source
    except DotenvError as error:
        source.faults.extend(f".env: {fault}" for fault in error.faults)
        return source
    for name, text in values.items():
        if name not in by_env() and not name.startswith(PREFIX):
            if mistake := likely_misspelling(name):
                source.add_unknown(name, text, ".env", mistake)
            continue
        _take_from_environment(source, name, values, ".env")
    return source


def read_environment(environment: Mapping[str, str]) -> Source:
    """The settings in environment variables. An unknown name is a fault if it starts with CHATBOT_."""
    source = Source()
    for name in environment:
        if name in by_env() or name.startswith(PREFIX):
            _take_from_environment(source, name, environment, "environment")
    return source


def _take_from_environment(source: Source, name: str, environment: Mapping[str, str], origin: str) -> None:
    text = environment[name]
    if is_service_link(name, environment):
        return
    if setting := by_env().get(name):
        source.add_value(setting, text, f"{origin} {name}")
    elif renamed := by_former_env().get(name):
        source.add_renamed(name, renamed.env, origin)
        source.add_value(renamed, text, f"{origin} {name}")
    else:
        source.add_unknown(name, text, origin, closest_env(name))


def read_command_line(options: Mapping[str, str | int | None]) -> Source:
    """The settings among parsed options (`vars()` of argparse's namespace); None is not set."""
    source = Source()
    for option, name in COMMAND_LINE.items():
        if options.get(option) is not None:
            source.add_value(inventory()[name], str(options[option]), f"command line --{option}")
    return source
