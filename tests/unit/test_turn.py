"""Whose turn it is to write, of the processes that share one file."""

from pathlib import Path

import pytest

from events.errors import LogUnavailable
from events.turn import Turn


def test_a_turn_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    turn, other = Turn(tmp_path / "log.db", 0.05), Turn(tmp_path / "log.db", 0.05)
    with turn.taken(), pytest.raises(LogUnavailable), other.taken():
        pass
    with pytest.raises(ZeroDivisionError), turn.taken():
        raise ZeroDivisionError
    with other.taken():
        pass
    turn.close()
    other.close()
