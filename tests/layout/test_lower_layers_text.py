"""The log and the projections serve any program: their texts name no command, file or setting of this one."""

import ast
import re

from tests.layout.imports import ROOT

PATHS = [path for package in ("events", "projections") for path in sorted((ROOT / package).rglob("*.py"))]
NAMES = re.compile(r"run\.py|DATABASE_URL|CHATBOT_|`chatbot |config\.toml")


def named(source: str) -> list[str]:
    """The texts of a module, docstrings among them, that name a part of the program above."""
    if not NAMES.search(source):
        return []
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and NAMES.search(text)]


def test_a_text_names_no_command_and_no_setting() -> None:
    found = {str(path.relative_to(ROOT)): texts for path in PATHS if (texts := named(path.read_text()))}
    assert found == {}, "say what helps with a Remedy, whose words are in chatbot/cli/remedies.py"


def test_a_command_in_a_text_is_found() -> None:
    assert named('raise LogUnusable(f"{path} is torn: see `chatbot salvage`")') == [" is torn: see `chatbot salvage`"]
