"""Where settings come from: config.toml, .env, the environment, the command line, each read on its own.

An empty value in .env, the environment or the command line counts as not set, so that `NAME=${NAME:-}` in somebody's
start script changes nothing; for a list it means the empty list (CORS_ORIGINS= lets no other web page in). API keys
that are set but empty are a fault: the service would otherwise start open to everyone.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec import Struct

from chatbot.config.dotenv import DotenvError, parse_dotenv
from chatbot.config.inventory import PREFIX, Setting, by_env, inventory, nearest, nearest_env, slip_of
from chatbot.config.service_links import is_service_link
from chatbot.config.settings import Settings
from chatbot.config.values import MASK, Invalid, from_text, from_toml, refused, visible

COMMAND_LINE = {"host": "server.host", "port": "server.port", "workers": "server.workers"}
_SENSITIVE = re.compile("auth|key|secret|password", re.IGNORECASE)


class Source(Struct):
    """What one source holds: values by the setting's name, where each was found, and everything wrong with it."""

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    faults: list[str] = []
    faulty: set[str] = set()

    def take(self, setting: Setting, raw: Any, origin: str, parse: Callable[[Setting, Any], Any] = from_text) -> None:
        """Keep what `parse` makes of `raw`, or note why it is not allowed."""
        if parse is from_text and not raw.strip() and setting.kind not in ("list", "table"):
            return
        try:
            self.values[setting.name] = parse(setting, raw)
            self.origins[setting.name] = origin
        except Invalid as invalid:
            reason = f"{invalid}; " if str(invalid) else ""
            self.faulty.add(setting.name)
            self.faults.append(
                f"{setting.name} = {refused(setting, raw)} ({origin}): {reason}allowed: {setting.allowed}"
            )

    def refuse(self, name: str, raw: Any, origin: str, meant: str | None) -> None:
        """Note that no setting is called `name`; `meant` is the nearest name there is."""
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
            source.refuse(section, content, label, nearest(section))
        elif section not in Settings.__struct_fields__:
            close = get_close_matches(section, Settings.__struct_fields__, n=1) or Settings.__struct_fields__
            source.faults.append(f"[{section}] ({label}): no such section; did you mean {' or '.join(close)}?")
        else:
            for key, raw in content.items():
                _take_from_config(source, f"{section}.{key}", raw, label)
    return source


def _take_from_config(source: Source, name: str, raw: Any, label: str) -> None:
    setting = inventory().get(name)
    if setting is None:
        source.refuse(name, raw, label, nearest(name))
    else:
        source.take(setting, raw, label, from_toml)


def read_dotenv(path: Path) -> Source:
    """The settings of a .env file, or nothing where there is none.

    The file may serve other programs too, so foreign names pass; only one that is nearly ours is taken for a slip.
    """
    source = Source()
    if not path.is_file():  # some call the folder of a virtual environment .env
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
            if slip := slip_of(name):
                source.refuse(name, text, ".env", slip)
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
    setting, text = by_env().get(name), environment[name]
    if is_service_link(name, environment):
        return
    if setting is not None:
        source.take(setting, text, f"{origin} {name}")
    else:
        source.refuse(name, text, origin, nearest_env(name))


def read_command_line(options: Mapping[str, str | int | None]) -> Source:
    """The settings among parsed options (`vars()` of argparse's namespace); None is not set."""
    source = Source()
    for option, name in COMMAND_LINE.items():
        if options.get(option) is not None:
            source.take(inventory()[name], str(options[option]), f"command line --{option}")
    return source
