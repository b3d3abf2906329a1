"""One word, one meaning: names that were replaced by the field's standard word do not come back."""

import io
import re
import tokenize
from pathlib import Path

from tests.layout.imports import PACKAGES, ROOT
from tests.layout.vocabulary import FILES, IDENTIFIERS

PATHS = [
    ROOT / "run.py",
    *(path for package in (*PACKAGES, "tests") for path in sorted((ROOT / package).rglob("*.py"))),
]
STEMS = {Path(name).stem: new for name, new in FILES.items()}


def replaced_names(source: str) -> list[str]:
    """Each use of a replaced identifier, with its line and the name that took its place."""
    if IDENTIFIERS.keys().isdisjoint(re.findall(r"\w+", source)):
        return []  # at once: few files have such a word even in their prose
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        f"line {token.start[0]}: {token.string} is now {IDENTIFIERS[token.string]}"
        for token in tokens
        if token.type == tokenize.NAME and token.string in IDENTIFIERS
    ]


def test_no_replaced_name_comes_back() -> None:
    found = {str(path.relative_to(ROOT)): names for path in PATHS if (names := replaced_names(path.read_text()))}
    assert found == {}


def test_no_replaced_file_name_comes_back() -> None:
    found = {str(path.relative_to(ROOT)): new for path in PATHS if (new := STEMS.get(path.stem)) is not None}
    assert found == {}, "a file of this kind is now called as the value says"


def test_a_replaced_name_is_refused_as_code_and_allowed_as_a_word() -> None:
    assert replaced_names('"""Leisure."""\nx = Leisure()  # Leisure\n') == ["line 2: Leisure is now DutyCycleThrottle"]
