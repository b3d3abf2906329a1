"""Lists settings for people: the values in force (`chatbot config`), and the README's tables."""

from collections.abc import Iterator

from msgspec import NODEFAULT

from chatbot.config.loader import Configuration
from chatbot.config.settings import Setting, by_former_name, default_env, inventory
from chatbot.config.sources import shown, to_toml


def show(configuration: Configuration) -> str:
    """Every setting by section, with its value and its source, aligned. Secrets are masked."""
    rows = list(_rows(configuration))
    key_width = max(len(key) for _, key, _, _ in rows)
    value_width = min(max(len(value) for _, _, value, _ in rows), 40)  # one long prompt must not widen all lines
    lines: list[str] = []
    current = ""
    for section, key, value, origin in rows:
        if section != current:
            lines += ["", f"[{section}]"]
            current = section
        lines.append(f"{key:{key_width}} = {value:{value_width}}  {origin}")
    return "\n".join(lines[1:])


def _rows(configuration: Configuration) -> Iterator[tuple[str, str, str, str]]:
    for setting in inventory().values():
        value = getattr(getattr(configuration.settings, setting.section), setting.key)
        origin = configuration.origins[setting.name]
        yield setting.section, setting.key, shown(setting, value), origin
        for number, table in enumerate(value if setting.columns else ()):
            for column in setting.columns.values():
                key = f"{setting.key}[{number}].{column.key}"
                yield setting.section, key, shown(column, getattr(table, column.key)), origin


def markdown_table() -> str:
    """The README's table: each setting with its default, its environment variable and its meaning."""
    lines = ["| setting | default | environment | meaning |", "|---|---|---|---|"]
    for setting in inventory().values():
        lines.append(_row(setting, f"`{setting.env}`"))
        lines += [_row(column, "") for column in setting.columns.values()]
    return "\n".join(lines)


def _row(setting: Setting, variable: str) -> str:
    default = "required" if setting.default is NODEFAULT else f"`{to_toml(setting.default)}`"
    cells = (f"`{setting.name}`", default, variable, setting.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def renamed_table() -> str:
    """The README's table of old names."""
    lines = ["| old name | new name | old variable | new variable |", "|---|---|---|---|"]
    for old, setting in by_former_name().items():
        lines.append(f"| `{old}` | `{setting.name}` | `{default_env(old)}` | `{setting.env}` |")
    return "\n".join(lines)
