"""All settings: the values in force by section (`Settings`, frozen), and a description of each one (`inventory`).

Each setting is declared once, in the file of its section in `sections/`: type and bounds, meaning with unit and reason
(`description`), default. Its `extra` may have the name of its environment variable (default:
CHATBOT_<SECTION>_<NAME>), whether it is secret, its former names, and the allowed values, if the bounds are not enough.
config.toml, the README's tables and error messages are generated from these declarations.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from chatbot.config.sections.anchor_settings import AnchorSettings
from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.sections.embedded_settings import EmbeddedSettings
from chatbot.config.sections.llm_settings import LlmSettings
from chatbot.config.sections.logging_settings import LoggingSettings
from chatbot.config.sections.media_settings import MediaSettings
from chatbot.config.sections.node_settings import NodeSettings
from chatbot.config.sections.server_settings import ServerSettings
from chatbot.config.sections.session_settings import SessionSettings
from chatbot.config.sections.stream_settings import StreamSettings
from chatbot.config.sections.v1_settings import V1Settings
from chatbot.config.sections.witness_settings import WitnessSettings


class Settings(Struct, frozen=True):
    """The values in force. `Settings()` has the defaults; like any struct made in code, it is not validated."""

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    database: DatabaseSettings = DatabaseSettings()
    sessions: SessionSettings = SessionSettings()
    chat: ChatSettings = ChatSettings()
    media: MediaSettings = MediaSettings()
    llm: LlmSettings = LlmSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    stream: StreamSettings = StreamSettings()
    v1: V1Settings = V1Settings()
    nodes: NodeSettings = NodeSettings()
    logging: LoggingSettings = LoggingSettings()
    anchors: AnchorSettings = AnchorSettings()
    witness: WitnessSettings = WitnessSettings()


PREFIX = "CHATBOT_"


class Setting(Struct, frozen=True):
    """One setting. `kind` is bool, int, float, str, choice, list, table or tables (an array of tables, whose fields are
    `columns`); `allowed` describes the allowed values. `default` is NODEFAULT for a field that a table must have.
    """

    section: str
    key: str
    env: str
    kind: str
    type: Any
    default: Any
    description: str
    allowed: str
    secret: bool
    prose: bool  # a text for people or a model, which is not checked for typical mistakes
    formerly: tuple[str, ...]  # old dotted names, which work until 1.0
    columns: Mapping[str, "Setting"] = {}
    example: str = ""  # of a field that a table must have

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"


@cache
def inventory() -> Mapping[str, Setting]:
    """All settings by dotted name, in the order of config.toml."""
    found = {}
    for section in fields(Settings):
        for field in fields(section.type):
            setting = _describe(section.name, field)
            found[setting.name] = setting
    return found


def _describe(section: str, field: FieldInfo) -> Setting:
    annotated, meta = get_args(field.type)
    extra = meta.extra or {}
    kind = _kind(annotated)
    default = field.default if field.default_factory is NODEFAULT else field.default_factory()
    row = get_args(annotated)[0] if kind == "tables" else None
    return Setting(
        section=section,
        key=field.name,
        env=extra.get("env", default_env(f"{section}.{field.name}")),
        kind=kind,
        type=field.type,
        default=default,
        description=meta.description or "",
        allowed=extra.get("allowed") or _allowed(kind, annotated, meta),
        secret=extra.get("secret", False),
        prose=extra.get("prose", False),
        formerly=extra.get("formerly", ()),
        columns={one.name: _describe(f"{section}.{field.name}[]", one) for one in fields(row)} if row else {},
        example=extra.get("example", ""),
    )


def default_env(name: str) -> str:
    """The environment name of a setting that has no name of its own: CHATBOT_<SECTION>_<KEY>."""
    return PREFIX + name.replace(".", "_").upper()


def _kind(annotated: Any) -> str:
    origin = get_origin(annotated)
    if origin is Literal:
        return "choice"
    if origin is tuple:
        item = get_args(annotated)[0]
        return "tables" if isinstance(item, type) and issubclass(item, Struct) else "list"
    if origin is Mapping:
        return "table"
    return str(annotated.__name__)


def _allowed(kind: str, annotated: Any, meta: Meta) -> str:
    if kind == "bool":
        return "true or false"
    if kind == "choice":
        return "one of " + ", ".join(choice or "empty" for choice in get_args(annotated))
    if kind in {"int", "float"}:
        number = "a whole number" if kind == "int" else "a number"
        low = f"above {meta.gt}" if meta.gt is not None else f"from {meta.ge}"
        return f"{number} {low}{',' if meta.gt is not None else ''} up to {meta.le}"
    return "a text"


def by_env() -> dict[str, Setting]:
    """All settings by the name of their environment variable."""
    return {setting.env: setting for setting in inventory().values()}


@cache
def by_former_name() -> Mapping[str, Setting]:
    """The renamed settings by each of their old dotted names."""
    return {old: setting for setting in inventory().values() for old in setting.formerly}


@cache
def by_former_env() -> Mapping[str, Setting]:
    """The renamed settings by each of their old environment variables."""
    return {default_env(old): setting for old, setting in by_former_name().items()}


def closest_name(name: str) -> str | None:
    """The setting's name that is most similar to `name`; None if none is."""
    key = name.rpartition(".")[2]
    homonyms = [setting.name for setting in inventory().values() if setting.key == key]
    if len(homonyms) == 1:  # the right key in the wrong section
        return homonyms[0]
    return next(iter(get_close_matches(name, inventory(), n=1)), None)


def closest_env(name: str) -> str | None:
    """The environment variable that is most similar to `name`, by its own or its default name; None if none is."""
    names: dict[str, str] = {}
    for setting in inventory().values():
        names |= dict.fromkeys((unprefixed_env(default_env(setting.name)), unprefixed_env(setting.env)), setting.env)
    return next((names[close] for close in get_close_matches(unprefixed_env(name), names, n=1)), None)


def unprefixed_env(name: str) -> str:
    """`name` without its prefix, which would make all names similar."""
    return name.removeprefix(PREFIX)


def likely_misspelling(name: str) -> str | None:
    """The unprefixed environment variable of which `name` is probably a misspelling; None if there is none."""
    names = [env for env in by_env() if len(env) > 5 and not env.startswith(PREFIX)]  # PORTS may be another program's
    return next(iter(get_close_matches(name, names, n=1, cutoff=0.85)), None)
