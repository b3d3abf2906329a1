"""Values of settings: from what a source holds to the type that the code uses, and to what people may see."""

import json
import re
from collections.abc import Callable
from typing import Any

from msgspec import ValidationError, convert

from chatbot.config.inventory import Setting
from chatbot.config.texts import slip_in, trimmed

MASK = "***"
_SWITCH = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)
_SHOWN_MAX_CHARS = 80  # a system prompt may be a page long; a line of the listing is not
_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")
_QUERY_SECRETS = re.compile(r"(?<=[?&])([^=&\s]*(?:key|token|secret|password|sig)[^=&\s]*=)[^&\s\"]+", re.IGNORECASE)


class Invalid(Exception):
    """A value that its setting does not allow; the text is the reason where the setting's `allowed` does not say it."""


def from_text(setting: Setting, text: str) -> Any:
    """The value that a text stands for, from an environment variable, .env or the command line. Raises Invalid."""
    parse = _PARSERS.get(setting.kind)
    try:
        value = parse(text.strip()) if parse else text
    except (ValueError, KeyError):
        raise Invalid from None  # the cause quotes the text, which may be a secret
    return from_toml(setting, value)


def from_toml(setting: Setting, value: Any) -> Any:
    """`value` as the setting's type, within its bounds. Raises Invalid."""
    if not setting.prose:
        value = trimmed(value)
        if slip := slip_in(value, setting.env):
            raise Invalid(slip)
    try:
        return convert(value, setting.type)
    except ValidationError:
        raise Invalid from None


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _table(text: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for number, item in enumerate(_list(text), start=1):
        name, colon, secret = item.partition(":")
        if not colon:
            raise Invalid(f"pair {number} has no colon")
        if name.strip() in table:
            raise Invalid(f"pair {number} has the name of an earlier one")
        table[name.strip()] = secret.strip()
    if not table:
        raise Invalid("it is set but empty; unset it to have none")
    return table


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: _SWITCH[text.lower()],
    "choice": str.lower,
    "list": _list,
    "table": _table,
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
    """A setting's value for a person's eyes: as `visible`, and secrets masked."""
    if setting.secret and isinstance(value, dict):
        return ", ".join(f"{name}: {MASK}" for name in value) or "none"
    return MASK if setting.secret and value else visible(value)


def refused(setting: Setting, raw: Any) -> str:
    """A refused value for a person's eyes. Nothing of a secret: where name and secret were swapped, a name is one."""
    return MASK if setting.secret else visible(raw)


def visible(value: Any) -> str:
    """Any value on one line, cut where very long, without the credentials that a URL may carry."""
    text = _QUERY_SECRETS.sub(rf"\1{MASK}", _CREDENTIALS.sub(f"{MASK}@", to_toml(value)))
    text = text.encode(errors="backslashreplace").decode()  # the environment may hold bytes that are no text
    return text if len(text) <= _SHOWN_MAX_CHARS else text[: _SHOWN_MAX_CHARS - 1] + "…"
