"""The benchmark of many processes over one log measures what it says, on both stores."""

from dataclasses import replace

import pytest

from tests.bench.clients.load_clients import LoadPlan
from tests.bench.harness.node_fleet import Way
from tests.bench.harness.timed_endpoints import WAIT_TIMEOUT_S
from tests.bench.nodes import EACH, TASKS, report, run_round
from tests.bench.workloads import cross_node_latency, shared_log_append
from tests.bench.workloads.cross_node_latency import Counts
from tests.support.programs.postgres_server import PostgresServer

SMALL = [replace(task, clients=4) for task in TASKS if task.name != "chat64"]
TOKENS = 8
TOKENS_FAR = 50  # a second of them: so long may it take until a cancel comes to the other process
SHORT = LoadPlan(seconds=0.2, warmup_s=0.05)
TWO_WORKERS, TWO_NODES = Way(2, on_postgres=False), Way(2, on_postgres=True)


@pytest.mark.parametrize("way", [TWO_WORKERS, TWO_NODES], ids=lambda way: way.name)
def test_every_task_is_measured_with_all_processes_at_work(way: Way, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres") if way.on_postgres else None
    found = run_round([way], SMALL, server, SHORT, mixed=True, tokens=TOKENS)
    assert set(found) == {f"{task.name} {way.name}" for task in SMALL}
    assert all(one["serving_us"] > 0 and one["p99_ms"] >= one["p50_ms"] > 0 for one in found.values())
    assert all((one["store_us"] > 0) == way.on_postgres for one in found.values())
    if way.on_postgres:
        (each,) = run_round([way], [replace(EACH, clients=2)], server, SHORT, mixed=False, tokens=TOKENS).values()
        assert each["operations"] >= 2 * way.processes
    if way.on_postgres:  # which of several workers accepts a connection is chance
        assert 0.5 <= found[f"chat16 {way.name}"]["busiest_share"] < 0.95
    assert report({key: [one, one] for key, one in found.items()}, [way], SMALL).count("\n") == 1 + len(SMALL)


def test_it_is_timed_when_another_process_learns_of_an_event_a_token_and_a_cancel(postgres: PostgresServer) -> None:
    times = cross_node_latency.measure(TWO_NODES, postgres, Counts(appends=3, tokens=TOKENS_FAR, cancels=2))
    seen = {what: len(taken) for what, taken in times.items()}
    assert seen == {"acknowledged own": 3, "event own": 3, "event far": 3, "token own": TOKENS_FAR,
                    "token far": TOKENS_FAR, "cancel own": 1, "cancel far": 1}  # fmt: skip
    assert all(0 < one < WAIT_TIMEOUT_S * 1000 for taken in times.values() for one in taken)
    assert cross_node_latency.report({TWO_NODES.name: [times]}, [TWO_NODES]).count("\n") == 1 + len(
        cross_node_latency.WHATS
    )


def test_appends_of_several_processes_to_one_log_add_up(postgres: PostgresServer) -> None:
    found = shared_log_append.measure(postgres, rounds=1, seconds=0.2, warmup_s=0.1, wanted={2: (4,)})
    (stores,) = found.values()
    for store, on_postgres in shared_log_append.STORES.items():
        (seen,) = stores[store]
        assert min(seen.per_s, seen.cpu_us) > 0
        assert (seen.store_us > 0) == on_postgres
    assert "4 appenders in 2 processes" in shared_log_append.report(found)
