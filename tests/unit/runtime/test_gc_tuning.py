"""Garbage is collected again after a pause, however it ends."""

import gc
from contextlib import suppress

from chatbot.runtime.gc_tuning import collection_paused


def test_collections_go_on_after_a_pause() -> None:
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with suppress(ImportError), collection_paused():
        raise ImportError
    assert gc.isenabled()


def test_a_pause_in_a_pause_ends_with_the_outer_one() -> None:
    with collection_paused():
        with collection_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
