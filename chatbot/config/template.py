"""Writes config.toml as the repository holds it. After a change to a setting:

python -m chatbot.config.template > config.toml
"""

from textwrap import wrap

from chatbot.config.settings import Setting, inventory
from chatbot.config.sources import to_toml

_HEAD = """\
# All settings, with their defaults. What is weaker comes first: this file, then a .env file, then the environment,
# then the command line (--host, --port). A line that is left out means its default; a name that is none of these
# stops the start. `chatbot config` shows what is in force and where it came from.
#
# Above each setting: its meaning; its environment variable and what is allowed; below, its default.
# An empty variable counts as not set, but for a list, where it means the empty list, and for API keys, where it stops
# the start. Names end in their unit.
# The texts stand in chatbot/config; after a change there: python -m chatbot.config.template > config.toml
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
        lines += ["", *_comment(setting), f"{setting.key} = {to_toml(setting.default)}"]
    return "\n".join((*lines, ""))


def _comment(setting: Setting) -> list[str]:
    texts = (setting.description, f"{setting.env}: {setting.allowed}")
    return [f"# {line}" for text in texts for line in wrap(text, _WIDTH, break_on_hyphens=False)]


if __name__ == "__main__":
    print(template(), end="")  # the command's one output
