"""One word, one meaning: names that were replaced by the field's standard word do not come back."""

import io
import tokenize
from pathlib import Path

import pytest

from tests.layout.imports import PACKAGES, ROOT
from tests.layout.vocabulary import FILES, IDENTIFIERS

PATHS = [
    ROOT / "run.py",
    *(path for package in (*PACKAGES, "tests") for path in sorted((ROOT / package).rglob("*.py"))),
]
STEMS = {Path(name).stem: new for name, new in FILES.items()}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def replaced_names(source: str) -> list[str]:
    """Each use of a replaced identifier, with its line and the name that took its place."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        f"line {token.start[0]}: {token.string} is now {IDENTIFIERS[token.string]}"
        for token in tokens
        if token.type == tokenize.NAME and token.string in IDENTIFIERS
    ]


@pytest.mark.parametrize("path", PATHS, ids=relative)
def test_no_replaced_name_comes_back(path: Path) -> None:
    assert replaced_names(path.read_text()) == []
    if path.stem in STEMS and STEMS[path.stem] is not None:
        pytest.fail(f"{relative(path)}: a file of this kind is now called {STEMS[path.stem]}")


def test_a_replaced_name_is_refused_as_code_and_allowed_as_a_word() -> None:
    assert replaced_names('"""Leisure."""\nx = Leisure()  # Leisure\n') == ["line 2: Leisure is now DutyCycleThrottle"]
