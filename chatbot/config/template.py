"""Generates config.toml from the declarations of the settings. After a change to a setting:

python -m chatbot.config.template > config.toml
"""

from textwrap import wrap

from msgspec import NODEFAULT

from chatbot.config.settings import Setting, inventory
from chatbot.config.sources import to_toml

_HEAD = """\
# All settings with their defaults. Each source overrides those before it: this file, a .env file, the environment, the
# command line (--host, --port, --workers). A setting that is left out has its default; an unknown name stops the
# start. `chatbot config` shows the values in force and where they came from.
#
# Above each setting: its meaning, its environment variable and the allowed values. Names end in their unit.
# An empty variable counts as not set; for a list it means the empty list, and for API keys it stops the start.
# The texts are in chatbot/config; after a change there: python -m chatbot.config.template > config.toml
"""
_WIDTH = 118


def template() -> str:
    """The text of config.toml: every setting with its default under its meaning, bounds and environment variable."""
    lines = [_HEAD.rstrip()]
    current = ""
    for setting in inventory().values():
        if setting.section != current:
            current = setting.section
            lines += ["", "", f"[{current}]"]
        value = _example_table(setting) if setting.columns else [f"{setting.key} = {to_toml(setting.default)}"]
        lines += ["", *_comment(setting), *value]
    return "\n".join((*lines, ""))


def _comment(setting: Setting) -> list[str]:
    texts = (setting.description, f"{setting.env}: {setting.allowed}")
    return [f"# {line}" for text in texts for line in wrap(text, _WIDTH, break_on_hyphens=False)]


def _example_table(setting: Setting) -> list[str]:
    """One table of an array, as a comment: an empty array could not be added to by tables further below."""
    lines = [f"# [[{setting.name}]]"]
    for column in setting.columns.values():
        value = column.example if column.default is NODEFAULT else column.default
        text = f"{column.description} Allowed: {column.allowed}."
        lines += [f"#   # {line}" for line in wrap(text, _WIDTH - 4, break_on_hyphens=False)]
        lines.append(f"#   {column.key} = {to_toml(value)}")
    return lines


if __name__ == "__main__":
    print(template(), end="")  # the command's one output
