"""Settings of stores that tests change."""

import pytest

from events.storage.sqlite import sqlite_batch_store


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only commits look at the files."""
    monkeypatch.setattr(sqlite_batch_store, "FILE_CHECK_S", 600.0)
