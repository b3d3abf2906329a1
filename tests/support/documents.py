"""The documents: the README.md of the project and those of its folders."""

import re
from pathlib import Path

from tests.support.service import ROOT

FOLDERS = ("chatbot", "events", "projections", "tests")
PATHS = [ROOT / "README.md", *(path for name in FOLDERS for path in sorted((ROOT / name).rglob("README.md")))]
TEXTS = {path: path.read_text() for path in PATHS}
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    """As seen from the project's root."""
    return str(path.relative_to(ROOT))


def section(title: str, document: str = "README.md") -> str:
    """The text under `## title`, to the next heading of that level."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", TEXTS[ROOT / document], re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no section {title}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    """The code in a text's fences of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def marked(mark: str) -> str:
    """The code in the fence under the comment `<!-- mark -->`; there is one in all documents."""
    pattern = rf"^<!-- {re.escape(mark)} -->\n```\w+\n(.*?)^```$"
    found = [code for text in TEXTS.values() for code in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]
    assert len(found) == 1, f"{len(found)} blocks are marked {mark}"
    return str(found[0])


def anchors(text: str) -> set[str]:
    """What `#...` may name in a document, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}


def links(text: str) -> list[str]:
    """The targets of a document's links and pictures that are no web addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text))
    return [target for target in found if "://" not in target]
