"""A session has one home among the servers, weighted, and leaves it for reasons only."""

from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Struct

from chatbot.llm.model_names import is_offered
from chatbot.llm.servers.server_choice import choose, has_room, home_of, is_overloaded, load_with_one_more, may_serve


class Server(Struct, frozen=True):
    name: str
    weight: float = 1.0
    concurrency: int = 0
    outstanding: int = 0
    offered: frozenset[str] = frozenset()
    lists_models: bool = True

    def offers(self, model: str) -> bool:
        return is_offered(model, self.offered)


SERVERS = st.lists(
    st.builds(
        Server,
        name=st.sampled_from("abcdefgh"),
        weight=st.floats(0.1, 10),
        concurrency=st.integers(0, 4),
        outstanding=st.integers(0, 8),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda server: server.name,
)


@given(SERVERS, st.text(max_size=8), st.booleans(), st.sampled_from(["", *"abc"]))
def test_a_server_with_room_is_chosen_if_there_is_one(
    servers: list[Server], session: str, is_new: bool, stays_on: str
) -> None:
    chosen = choose(servers, session, is_new=is_new, stays_on=stays_on)
    assert (chosen is None) == (not any(map(has_room, servers)))
    if chosen is not None:
        assert chosen in servers
        assert has_room(chosen)
        if is_new and not stays_on:
            assert not any(is_overloaded(chosen, one) for one in servers if has_room(one))


@given(SERVERS, st.text(min_size=1, max_size=8))
def test_a_session_that_has_begun_leaves_its_home_only_while_that_is_full(servers: list[Server], session: str) -> None:
    home = home_of(servers, session)
    chosen = choose(servers, session)
    assert chosen is home if has_room(home) else chosen is not home
    assert home_of(list(reversed(servers)), session) is home


@given(SERVERS, st.text(min_size=1, max_size=8), st.data())
def test_a_server_that_leaves_moves_no_other_sessions_than_its_own(
    servers: list[Server], session: str, data: st.DataObject
) -> None:
    assume(len(servers) > 1)
    gone = data.draw(st.sampled_from(servers))
    home = home_of(servers, session)
    rest = [server for server in servers if server is not gone]
    if home is not gone:
        assert home_of(rest, session) is home


@given(SERVERS)
def test_a_request_without_a_session_goes_to_the_least_busy_server(servers: list[Server]) -> None:
    chosen = choose(servers, "")
    free = [server for server in servers if has_room(server)]
    assert chosen is None or load_with_one_more(chosen) == min(map(load_with_one_more, free))


def test_sessions_are_shared_by_weight() -> None:
    servers = [Server("a", 1.0), Server("b", 2.0), Server("c", 5.0)]
    homes = Counter(home_of(servers, f"session {number}").name for number in range(8000))
    assert {name: round(count / 1000) for name, count in homes.items()} == {"a": 1, "b": 2, "c": 5}


def test_a_new_session_is_not_sent_to_a_home_that_is_much_busier() -> None:
    session = next(f"{no}" for no in range(99) if home_of([Server("a"), Server("b")], f"{no}").name == "a")
    busy, idle = Server("a", outstanding=3), Server("b")
    assert choose([busy, idle], session, is_new=True) is idle
    light = Server("a", weight=0.01)
    assert (
        choose([light, idle], next(f"{no}" for no in range(9999) if home_of([light, idle], f"{no}") is light)) is light
    )
    assert choose([busy, idle], session) is busy  # it has a cache there
    no_busier = Server("a", outstanding=3)
    assert choose([no_busier, Server("b", outstanding=2)], session, is_new=True) is no_busier
    assert choose([Server("a"), idle], session, stays_on="b") is idle


def test_a_model_is_asked_of_servers_that_offer_it_or_may_have_more_than_they_list() -> None:
    listed = Server("a", offered=frozenset({"small"}))
    patterns = Server("b", offered=frozenset({"llama-*"}))
    unlisted = Server("c", lists_models=False)
    servers = [listed, patterns, unlisted]
    assert may_serve(servers, "small") == [listed]
    assert may_serve(servers, "llama-70b") == [patterns]
    assert may_serve(servers, "another") == [unlisted]
    assert may_serve([listed, patterns], "another") == []
    assert may_serve(servers, "") == servers
