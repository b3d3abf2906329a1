"""CI installs exact versions, which are versions that pyproject.toml allows."""

import re
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement

from tests.support.service import ROOT

PINS = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", (ROOT / ".ci" / "constraints.txt").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_IN_CI = ("embedded", "postgres", "test", "lint")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    "stated",
    sorted({*PROJECT["dependencies"], *chain(*(PROJECT["optional-dependencies"][one] for one in INSTALLED_IN_CI))}),
)
def test_each_dependency_has_an_allowed_version(stated: str) -> None:
    requirement = Requirement(stated)
    version = PINS.get(normalized(requirement.name))
    assert version is not None, f"regenerate .ci/constraints.txt: it has no {requirement.name}"
    assert requirement.specifier.contains(version), f"regenerate .ci/constraints.txt: {stated}, and not {version}"
