"""Whether time tells another owner's session from an unknown id: python -m tests.bench.owners --pairs 1000

Each operation of the real program is called with the id of another owner's session and with an unknown id, alternately,
on one connection. Printed is the median of the differences within pairs, and as noise the same for pairs of two unknown
ids. A difference counts as seen if zero is outside of its 99 % confidence interval (by ranks), and if it is larger than
the largest noise of all operations. Exits with 1 if one is seen.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import httpx
from msgspec import Struct

from tests.support.http.named_requests import Named, NamedRequest, named_requests
from tests.support.model.model_server import ModelServer
from tests.support.service import program

MINA, JUN = "a-secret-of-minas-own", "a-secret-of-juns-own"
SESSIONS = 50  # of the other owner, in turn: some are in memory as actors, some are not
Z99 = 2.576


class Difference(Struct, frozen=True):
    """Microseconds; `low` and `high` bound the median with a confidence of 99 %."""

    median: float
    low: float
    high: float


def difference(differences: Sequence[float]) -> Difference:
    ordered = sorted(differences)
    spread = math.ceil(Z99 * math.sqrt(len(ordered)) / 2)
    middle = len(ordered) // 2
    return Difference(
        statistics.median(ordered), ordered[max(0, middle - spread)], ordered[min(len(ordered) - 1, middle + spread)]
    )


async def timed_us(client: httpx.AsyncClient, request: httpx.Request) -> float:
    start_ns = time.perf_counter_ns()
    answer = await client.send(request)
    end_ns = time.perf_counter_ns()
    if answer.status_code != 404:
        raise SystemExit(f"{request.method} {request.url.path}: {answer.status_code} instead of 404")
    return (end_ns - start_ns) / 1000


def unknown() -> Named:
    return Named(str(uuid.uuid4()), str(uuid.uuid4()), uuid.uuid4().hex * 2)


async def measure_pairs(
    client: httpx.AsyncClient, request: NamedRequest, firsts: Sequence[Named], pairs: int
) -> Difference:
    """What the call with one of `firsts` takes longer than with an unknown id; which is first alternates."""
    found: list[float] = []
    for number in range(pairs):
        first = request.build(client, firsts[number % len(firsts)])
        second = request.build(client, unknown())
        if number % 2:
            first_us = await timed_us(client, first)
            found.append(first_us - await timed_us(client, second))
        else:
            second_us = await timed_us(client, second)
            found.append(await timed_us(client, first) - second_us)
    return difference(found)


async def make_sessions(url: str) -> list[Named]:
    """Sessions of another owner, each with a turn; a third of them deleted."""
    found: list[Named] = []
    async with httpx.AsyncClient(base_url=url, timeout=30, headers={"X-API-Key": MINA}) as client:
        upload = await client.post("/api/media", content=b"\x89PNG\r\n\x1a\n" + bytes(64))
        for number in range(SESSIONS):
            session_id = (await client.post("/api/sessions")).json()["session_id"]
            turn = await client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
            found.append(Named(session_id, turn.json()["user_message_id"], upload.json()["sha256"]))
            if number % 3 == 0:
                await client.delete(f"/api/sessions/{session_id}")
    return found


async def run(pairs: int, operations: Sequence[str]) -> bool:
    """Measure and print; whether no difference is seen."""
    rows: list[tuple[str, Difference, Difference]] = []
    keys = f"mina:{MINA},jun:{JUN}"
    with tempfile.TemporaryDirectory() as folder:
        async with ModelServer() as model, program(Path(folder), model.url, CHATBOT_API_KEYS=keys) as service:
            others = await make_sessions(service.url)
            async with httpx.AsyncClient(base_url=service.url, timeout=30, headers={"X-API-Key": JUN}) as client:
                for request in named_requests():
                    if operations and request.operation not in operations:
                        continue
                    noise = await measure_pairs(client, request, [unknown() for _ in range(pairs)], pairs)
                    rows.append((request.operation, await measure_pairs(client, request, others, pairs), noise))
                    print(f"{request.operation}: {rows[-1][1].median:+.1f} us", file=sys.stderr)
    largest_us = max(max(abs(noise.low), abs(noise.high)) for _, _, noise in rows)
    seen: list[str] = []
    print(f"| operation, {pairs} pairs | difference, us | 99 % | noise, us | 99 % |\n|---|---|---|---|---|")
    for operation, found, noise in rows:
        if not found.low <= 0 <= found.high and abs(found.median) > largest_us:
            seen.append(operation)
        print(
            f"| {operation} | {found.median:+.1f} | {found.low:+.1f} to {found.high:+.1f}"
            f" | {noise.median:+.1f} | {noise.low:+.1f} to {noise.high:+.1f} |"
        )
    print(json.dumps({"seen": seen, "largest_noise_us": round(largest_us, 1)}))
    return not seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--operations", nargs="*", default=[], help="operationIds (default: all)")
    arguments = parser.parse_args()
    return 0 if asyncio.run(run(arguments.pairs, arguments.operations)) else 1


if __name__ == "__main__":
    sys.exit(main())
