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

from tests.layout.imports import PACKAGES, ROOT, import_graph, longest_chain, source_files
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, started

REQUESTS = ("/api/chat", "/api/chat/stream")
PROJECTION_DELAY_S = "5"
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
    answered the same request before: those of each of three requests, because work that is done once a second happens
    to coincide with one of them."""
    called = CalledFiles()
    threading.setprofile(called)
    sys.setprofile(called)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # A batch of projections is no part of the request: on a busy machine it may begin before the answer ends.
            later = {"CHATBOT_DATABASE_PROJECTION_DELAY_S": PROJECTION_DELAY_S}
            async with ModelServer() as model, started(Path(folder), model.url, **later) as running:
                session = await running.session()
                await _ask(running, path, session)
                await _ask(running, path, session)
                found: list[set[str]] = []
                for _ in range(3):
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
    listed = parser.parse_args().list
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
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
