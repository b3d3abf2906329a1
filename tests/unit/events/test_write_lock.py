"""Whose turn it is to write, of the processes that share one file."""

from pathlib import Path

import pytest

from events.errors import LogUnavailable
from events.storage.sqlite.write_lock import WriteLock


def test_a_turn_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    turn, other = WriteLock(tmp_path / "log.db", 0.05), WriteLock(tmp_path / "log.db", 0.05)
    with turn.held(), pytest.raises(LogUnavailable), other.held():
        pass
    with pytest.raises(ZeroDivisionError), turn.held():
        raise ZeroDivisionError
    with other.held():
        pass
    turn.close()
    other.close()
