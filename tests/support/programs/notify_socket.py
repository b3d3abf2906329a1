"""The socket on which systemd listens to a unit of Type=notify."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotifySocket:
    def __init__(self, address: str) -> None:
        """`address` as in NOTIFY_SOCKET: a path, or a name in the abstract namespace after @."""
        self.address = address
        self.states: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def received(self) -> list[str]:
        """The names of all states so far, such as READY."""
        try:
            while True:
                self.states.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return [state.partition("=")[0] for state in self.states]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def notify_socket(address: str = "") -> Iterator[NotifySocket]:
    """At `address`, or at a path that is short enough for a socket on every system."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        opened = NotifySocket(address or str(Path(folder) / "notify"))
        try:
            yield opened
        finally:
            opened.close()
