"""Figures of the layout: `python -m tests.layout.measure`.

Prints how long the longest import chain is and which files one chat request crosses.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from chatbot.keys import key_registry
from tests.layout.imports import PACKAGES, ROOT, import_graph, longest_chain, source_files
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, started

REQUESTS = ("/api/chat", "/api/chat/stream")
REQUESTS_MEASURED = 5
# Work in the background that a request sets off, or that other work does for it, is put off till after the requests.
NO_BACKGROUND_WORK = {"CHATBOT_DATABASE_PROJECTION_DELAY_S": "5", "CHATBOT_LLM_HEALTH_INTERVAL_S": "3600"}
FOLLOW_INTERVAL_S = 60.0  # likewise the reads by which each process learns of new keys
ROOTS = tuple(f"{ROOT / package}/" for package in PACKAGES)


class CalledFiles:
    """Notes in which of the product's files a function is called, in every thread that starts after it."""

    def __init__(self) -> None:
        self.files: set[str] | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if self.files is not None and event == "call":
            name = frame.f_code.co_filename
            if name.startswith(ROOTS):
                self.files.add(name)

    async def during(self, work: Callable[[], Any]) -> list[str]:
        self.files = set()
        await work()
        found, self.files = self.files, None
        return sorted(str(Path(name).relative_to(ROOT)) for name in found)


async def files_of_request(path: str) -> list[str]:
    """The files that a chat request crosses from its first byte to the end of the answer, in a service that has
    answered the same request before.

    Work in the background does not count, however slow the machine is: projections, questions about the model server's
    health and reads of the keys are put off, and a file counts only if each of REQUESTS_MEASURED requests crosses it,
    which those of timers do not.
    """
    called = CalledFiles()
    key_registry.READ_INTERVAL_S = FOLLOW_INTERVAL_S
    threading.setprofile(called)
    sys.setprofile(called)
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with ModelServer() as model, started(Path(folder), model.url, **NO_BACKGROUND_WORK) as running:
                session = await running.session()
                await _ask(running, path, session)
                await _ask(running, path, session)
                found: list[set[str]] = []
                for _ in range(REQUESTS_MEASURED):
                    await asyncio.sleep(0.3)  # what the last request has left to be done is done
                    found.append(set(await called.during(lambda: _ask(running, path, session))))
                return sorted(set.intersection(*found))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def _ask(running: Running, path: str, session: str) -> None:
    body = {"session_id": session, "message": "Hello"}
    async with running.client.stream("POST", path, json=body) as answer:
        async for _ in answer.aiter_bytes():
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--list", action="store_true", help="name the modules of the chain and the files of the request"
    )
    parser.add_argument("--request", choices=REQUESTS, help="print only the files that this request crosses")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if options.request:
        print("\n".join(asyncio.run(files_of_request(options.request))))
        return
    listed = options.list
    chain = longest_chain(import_graph())
    print(f"source files: {len(source_files())}")
    print(f"longest import chain: {len(chain)} modules")
    if listed:
        print("\n".join(f"  {name}" for name in chain))
    for path in REQUESTS:
        crossed = asyncio.run(files_of_request(path))
        print(f"files that one POST {path} crosses: {len(crossed)}")
        if listed:
            print("\n".join(f"  {name}" for name in crossed))


if __name__ == "__main__":
    main()
