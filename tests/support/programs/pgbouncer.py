"""PgBouncer before a PostgreSQL server, configured as events/README.md says."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs.external_programs import free_port
from tests.support.programs.postgres_server import PostgresServer, server_user
from tests.support.service import ROOT

START_TIMEOUT_S = 30.0


def documented_settings() -> str:
    """The pgbouncer.ini of events/README.md."""
    readme = (ROOT / "events/README.md").read_text()
    return readme.partition("```ini\n[databases]")[2].partition("```")[0]


@contextmanager
def pgbouncer(server: PostgresServer, database: str = "postgres", **changes: str) -> Iterator[str]:
    """The URL of a running PgBouncer before `database`. `changes` are settings that differ from those of the README.

    Whoever connects is let in: there are no passwords in the tests.
    """
    port = free_port()
    changes = {"listen_port": str(port), "auth_type": "trust", "user": "", "logfile": "", **changes}
    lines = [f"chatbot = host=127.0.0.1 port={server.port} dbname={database}"]
    for line in documented_settings().splitlines():
        name = line.partition("=")[0].strip()
        if name and name not in ("chatbot", *changes):
            lines.append(line)
    lines += [f"{name} = {value}" for name, value in changes.items() if value]
    lines.append("unix_socket_dir =")  # no socket in a folder that all share
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    try:
        users = folder / "userlist.txt"
        users.write_text('"postgres" ""\n')
        text = "[databases]\n" + "\n".join(lines) + "\n"
        (folder / "pgbouncer.ini").write_text(text.replace("/etc/pgbouncer/userlist.txt", str(users)))
        user = server_user()
        if user is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, user)
        with _started(folder, user, port):
            yield f"postgresql://postgres@127.0.0.1:{port}/chatbot"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(folder: Path, user: int | None, port: int) -> Iterator[None]:
    program = shutil.which("pgbouncer")
    assert program is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "pgbouncer.ini"], cwd=folder, stdout=log, stderr=log, user=user, group=user
        )
        try:
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while not _listens(port):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline_s, (folder / "log").read_text()
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
