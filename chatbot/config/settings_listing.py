"""Lists settings for people: the values in force (`chatbot config`), and the README's tables."""

from collections.abc import Iterator

from chatbot.config.loader import Configuration
from chatbot.config.settings import by_former_name, default_env, inventory
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
        yield setting.section, setting.key, shown(setting, value), configuration.origins[setting.name]


def markdown_table() -> str:
    """The README's table: each setting with its default, its environment variable and its meaning."""
    lines = ["| setting | default | environment | meaning |", "|---|---|---|---|"]
    for setting in inventory().values():
        cells = (f"`{setting.name}`", f"`{to_toml(setting.default)}`", f"`{setting.env}`", setting.description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def renamed_table() -> str:
    """The README's table of old names."""
    lines = ["| old name | new name | old variable | new variable |", "|---|---|---|---|"]
    for old, setting in by_former_name().items():
        lines.append(f"| `{old}` | `{setting.name}` | `{default_env(old)}` | `{setting.env}` |")
    return "\n".join(lines)
