"""Notifies systemd that the service is ready, reloads or stops, by the protocol of sd_notify(3) (Type=notify)."""

import os
import socket
import time
from collections.abc import Callable, MutableMapping

import structlog


class SystemdNotifier:
    """Sends states to the datagram socket at `address`; sends nothing if that is empty.

    A state that cannot be sent is logged and does not stop the service. No call blocks.
    """

    def __init__(
        self,
        address: str,
        logger: structlog.stdlib.BoundLogger,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._address = address
        self._logger = logger
        self._monotonic_ns = monotonic_ns

    def ready(self) -> None:
        """The service accepts requests: after its start and after a reload, also after a failed one."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service drains and will exit."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in Linux's abstract namespace, where the first byte is zero.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.setblocking(False)
                connection.sendto(state.encode(), address)
        except OSError as error:
            name = state.partition("=")[0]
            self._logger.warning("service_manager.not_notified", state=name, reason=error.strerror or str(error))


def take_systemd_notifier(
    logger: structlog.stdlib.BoundLogger, environment: MutableMapping[str, str] = os.environ
) -> SystemdNotifier:
    """A notifier of the service manager in `environment`, whose name is removed: child processes must not notify it."""
    return SystemdNotifier(environment.pop("NOTIFY_SOCKET", ""), logger)
