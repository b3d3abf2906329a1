"""The serving benchmark measures what it says, and lets no wrong answer pass."""

import asyncio
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.bench.clients.load_clients import Cpu, Load, LoadFailed, LoadPlan, Measured
from tests.bench.clients.serving_cases import Call
from tests.bench.harness import plot, tables
from tests.bench.harness.serving_rig import Bench, measure, rig, shape
from tests.bench.servers.fake_model import words
from tests.bench.serving import CASES, TURN_CURVE, gap_report, latency_report, report, run_round, summary

SMALL = [replace(case, clients=min(case.clients, 4)) for case in CASES]
TOKENS = 8
SHORT = LoadPlan(seconds=0.1, warmup_s=0.0)
FIRST, SECOND = words(2)


def thin(tmp_path: Path, *, protocol: str = "midm") -> Bench:
    return Bench(SMALL, 1, seconds=0.2, warmup_s=0.05, tokens=TOKENS, protocol=protocol, folder=tmp_path)


def test_a_round_measures_every_case_on_the_product_and_on_the_floor(tmp_path: Path) -> None:
    found = run_round(0, thin(tmp_path))
    both = {"paced256", "paced32", "chat", "burst", "ttft"}
    assert set(found) == {f"{one} floor" for one in both} | {f"{case.name} ours" for case in CASES} | {"fsync ours"}
    assert all(one["cpu_us"] > 0 and one["rss_mib"] > 1 for name, one in found.items() if name != "fsync ours")
    assert found["paced256 ours"]["operations"].is_integer(), "whole tokens, though replies are cut by the window"
    lines = [summary(case, [found, found]) for case in SMALL]
    assert report(lines).count("\n") == 1 + len(CASES)
    assert gap_report(lines).count("\n") == 1 + sum(case.delay_ms > 0 for case in CASES)
    assert found["paced256 floor"]["gap_p50_ms"] > 0, "gaps between tokens are measured on both"
    result = {"machine": tables.machine(), "protocol": "midm", "lines": lines}
    said = plot.serving(result, tmp_path / "serving.png")
    assert (tmp_path / "serving.png").exists() == (find_spec("matplotlib") is not None), said


def test_the_curve_has_the_latency_of_each_number_of_clients() -> None:
    figures = {"cpu_us": 300.0, "p50_ms": 2.0, "p99_ms": 5.0}
    keys = [f"{case.name} {server}" for case in TURN_CURVE for server in ("floor", "ours")]
    found = {"fsync ours": {"ms": 0.1}, **dict.fromkeys(keys, figures)}
    lines = [summary(case, [found, found]) for case in TURN_CURVE]
    assert latency_report(lines).count("\n") == 1 + len(TURN_CURVE)
    assert latency_report(lines).count("5") > len(TURN_CURVE)
    assert not latency_report([summary(CASES[1], [found | {"chat floor": figures, "chat ours": figures}])])


@pytest.mark.parametrize("protocol", ["midm", "openai"])
def test_a_reply_that_lacks_a_token_fails_the_benchmark(tmp_path: Path, protocol: str) -> None:
    bench = thin(tmp_path, protocol=protocol)
    chat, burst = SMALL[1], SMALL[4]
    with rig(tmp_path, bench) as processes:
        for server in processes.servers:
            for case in (chat, burst):
                shape(processes.model_url, TOKENS, 0)
                assert measure(processes, case, bench, server)["operations"] > 0
                shape(processes.model_url, TOKENS, 0, drop=3)
                with pytest.raises(LoadFailed, match=f"{case.name}, {server.target.name}: .*in place of"):
                    measure(processes, case, bench, server)


def frames(*contents: str) -> bytes:
    data = "".join(f'data: {{"type":"chunk","content":"{one}"}}\n\n' for one in contents).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nX-Ends-In: 0\r\n\r\n"
END = b"c\r\ndata: [DONE]\r\n0\r\n\r\n"


async def load(*writes: bytes) -> Measured:
    """One client of a server that answers with these writes, each a read of its own; an empty one closes."""

    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_open = True
        while is_open and await reader.read(65_536):
            for data in writes:
                writer.write(data)
                await asyncio.sleep(0.005)
                is_open = bool(data)
        writer.close()
        await writer.wait_closed()
        ended.set()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    call = Call([[b"GET / HTTP/1.1\r\n\r\n"]], b"[DONE]", text=(FIRST + SECOND).encode())
    try:
        return await Load([url], call, SHORT, lambda: Cpu(0, 0)).run()
    finally:
        await ended.wait()
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize(
    "writes",
    [
        (HEAD, frames(FIRST), frames(SECOND), END),
        (HEAD + frames(FIRST + SECOND) + END,),
        (HEAD[:9], HEAD[9:] + frames(FIRST, SECOND)[:30], frames(FIRST, SECOND)[30:] + END[:-3], END[-3:]),
    ],
    ids=["a frame a token", "all tokens in one frame", "cut anywhere"],
)
async def test_text_counts_however_many_frames_it_comes_in(writes: tuple[bytes, ...]) -> None:
    seen = await load(*writes)
    assert len(seen.took_s) == len(seen.first_text_s) > 0
    assert 0 <= seen.text_bytes - len(FIRST + SECOND) * len(seen.took_s) <= len(FIRST + SECOND)


@pytest.mark.parametrize(
    ("writes", "fault"),
    [
        ((HEAD + frames(FIRST) + END,), "5 bytes in place of 10"),
        ((HEAD + frames(FIRST, SECOND, SECOND) + END,), "15 bytes in place of 10"),
        ((HEAD + frames(SECOND, FIRST) + END,), "10 bytes in place of 10"),
        ((HEAD + frames(FIRST, SECOND) + END[-5:],), "0 times in place of 1"),
        ((HEAD.replace(b"200", b"503") + frames(FIRST, SECOND) + END,), "status 503"),
        ((HEAD + frames(FIRST), b""), "the connection ended within an answer"),
    ],
    ids=["lost token", "doubled token", "wrong order", "no end", "refused", "cut off"],
)
async def test_a_wrong_answer_is_a_failure(writes: tuple[bytes, ...], fault: str) -> None:
    with pytest.raises(LoadFailed, match=fault):
        await load(*writes)
