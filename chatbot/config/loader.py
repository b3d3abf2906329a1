"""Loads the settings; later sources override earlier ones: defaults, config.toml, .env, environment, command line."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import fields, replace

from chatbot.config.settings import Setting, Settings, inventory
from chatbot.config.sources import Source, read_command_line, read_config, read_dotenv, read_environment, refused
from chatbot.config.validation import Fault, find_faults

CONFIG_FILE = "config.toml"


class ConfigError(Exception):
    """Some settings are wrong. `faults` are all of them, each with name, value, source, and what is allowed."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        counted = "1 setting is wrong" if len(faults) == 1 else f"{len(faults)} settings are wrong"
        super().__init__("\n  ".join((f"{counted}:", *faults)))
        self.faults = faults


class Configuration(Struct, frozen=True):
    """The settings in force, the source of each (`origins`, by dotted name), and the files that were read.

    `renamed`: a warning for each setting that a source calls by its old name.
    """

    settings: Settings
    origins: Mapping[str, str]
    files: tuple[Path, ...] = ()  # absolute; later ones override earlier ones
    renamed: tuple[str, ...] = ()


def load(
    command_line: Mapping[str, str | int | None] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    program: Path | None = None,
) -> Configuration:
    """Read all sources and merge them.

    `command_line` may have host, port, workers and config (a file to read instead of config.toml); `environment` is
    os.environ by default. config.toml and .env are read from `folder` (default: the current directory); if that has no
    config.toml, it is read from the folder `program`. Raises ConfigError, also for a wrong value that a later source
    overrides.
    """
    options = command_line or {}
    folder = folder or Path()
    path, label = _config_file(options.get("config"), folder, program)
    dotenv = folder / ".env"
    sources = (
        read_config(path, label, required=bool(options.get("config"))),
        read_dotenv(dotenv),
        read_environment(os.environ if environment is None else environment),
        read_command_line(options),
    )
    renamed = tuple(sentence for source in sources for sentence in source.renamed)
    files = tuple(file.absolute() for file in (path, dotenv) if file.is_file())
    return replace(_merge(sources), files=files, renamed=renamed)


def _config_file(named: str | int | None, folder: Path, program: Path | None) -> tuple[Path, str]:
    """The file to read, and its name in messages."""
    if named:
        return folder / str(named), str(named)
    path = folder / CONFIG_FILE
    if program is not None and not path.exists():
        bundled = program / CONFIG_FILE
        return bundled, str(bundled)
    return path, CONFIG_FILE


def _merge(sources: tuple[Source, ...]) -> Configuration:
    values = {name: setting.default for name, setting in inventory().items()}
    origins = dict.fromkeys(values, "default")
    faults: list[str] = []
    faulty_names: set[str] = set()
    for source in sources:
        values |= source.values
        origins |= source.origins
        faults += source.faults
        faulty_names |= source.faulty_names
    settings = _assemble(values)
    # a wrong setting was reported already: comparing others with it would only repeat that
    contradictions = (fault for fault in find_faults(settings) if faulty_names.isdisjoint(fault.names))
    faults += [_describe(fault, values, origins) for fault in contradictions]
    if faults:
        raise ConfigError(tuple(faults))
    return _apply_debug(settings, origins)


def _assemble(values: Mapping[str, Any]) -> Settings:
    sections = {}
    for section in fields(Settings):
        keys = section.type.__struct_fields__
        sections[section.name] = section.type(**{key: values[f"{section.name}.{key}"] for key in keys})
    return Settings(**sections)


def _describe(fault: Fault, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    found = [_find_value(name, values) for name in fault.names]
    parts = (
        f"{name} = {refused(setting, value)} ({origins[name.partition('[')[0]]})"
        for name, (setting, value) in zip(fault.names, found, strict=True)
    )
    allowed = f"; allowed: {found[0][0].allowed}" if len(found) == 1 else ""
    return f"{', '.join(parts)}: {fault.reason}{allowed}"


def _find_value(name: str, values: Mapping[str, Any]) -> tuple[Setting, Any]:
    """The setting `name`, which may be in a table (llm.servers[1].url), and its value."""
    table, bracket, rest = name.partition("[")
    if not bracket:
        return inventory()[name], values[name]
    number, _, key = rest.partition("].")
    return inventory()[table].columns[key], getattr(values[table][int(number)], key)


def _apply_debug(settings: Settings, origins: dict[str, str]) -> Configuration:
    if settings.server.debug:
        settings = replace(settings, logging=replace(settings.logging, level="debug"))
        origins["logging.level"] = f"server.debug, {origins['server.debug']}"
    return Configuration(settings, origins)
