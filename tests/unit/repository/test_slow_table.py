"""The table of slow tests names what is there, and what it names is marked."""

import pytest

from tests.support.service import ROOT
from tests.support.slow_tests import PLACES, is_slow


@pytest.mark.parametrize("place", PLACES)
def test_each_place_is_there(place: str) -> None:
    path = ROOT / "tests" / place
    assert path.is_dir() if place.endswith("/") else path.is_file(), f"remove {place} from tests/support/slow_tests.py"


def test_a_place_is_a_whole_folder_or_file() -> None:
    assert is_slow("tests/crash/test_kill.py::test_x")
    assert is_slow("tests/integration/cli/test_salvage.py::test_x[sqlite]")
    assert not is_slow("tests/integration/cli/test_salvage_truncated_log.py::test_x")
    assert not is_slow("tests/unit/sessions/test_decide.py::test_x")


def test_a_test_that_is_not_listed_is_not_marked(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("slow") is None
