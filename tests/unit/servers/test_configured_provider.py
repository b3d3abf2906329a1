"""What each of several servers takes from its own table, and what from [llm]."""

from msgspec.structs import replace

from chatbot.config.sections.llm_server import LlmServer
from chatbot.config.sections.llm_settings import LlmSettings
from chatbot.config.settings import Settings
from chatbot.llm.configured_provider import concurrent_replies, configured_provider, server_options
from chatbot.llm.servers.server_pool import ServerPool

A = LlmServer(
    name="a", url="http://a", key="key-a", models=("m-*", "small", "tiny"), think_tags="opened", concurrency=3
)
B = LlmServer(name="b", url="http://b", weight=2.0, concurrency=4)
LLM = LlmSettings(model="small", proxy="http://proxy", ca_file="ca.pem", think_tags="tagged", first_token_timeout_s=7.0)


def configured(*servers: LlmServer, **settings: int) -> Settings:
    return Settings(llm=replace(LLM, servers=servers, **settings))


def test_a_server_has_its_own_address_key_and_models_and_the_rest_of_llm() -> None:
    a, b = server_options(configured(A, B))
    assert (a.llm.server_url, a.llm.api_key, a.llm.model, a.llm.think_tags) == ("http://a", "key-a", "small", "opened")
    assert (b.llm.server_url, b.llm.api_key, b.llm.model, b.llm.think_tags) == ("http://b", "", "", "tagged")
    for one in (a, b):
        assert (one.llm.proxy, one.llm.ca_file, one.llm.first_token_timeout_s) == ("http://proxy", "ca.pem", 7.0)
    assert (a.name, a.protocol, a.weight, a.concurrency) == ("a", "auto", 1.0, 3)
    assert (b.name, b.protocol, b.weight, b.concurrency) == ("b", "auto", 2.0, 4)


async def test_the_pool_offers_what_is_configured_before_any_server_answers() -> None:
    pool = configured_provider(configured(A, B))
    assert isinstance(pool, ServerPool)
    assert (pool.name, pool.model, pool.lists_models) == ("auto", "small", False)
    assert pool.models == {"m-*", "small", "tiny"}
    await pool.close()


def test_no_more_replies_run_than_the_servers_take_together() -> None:
    assert concurrent_replies(configured(A, B)) == 7
    assert concurrent_replies(configured(A, B, concurrent_max=5)) == 5
    assert concurrent_replies(configured(A, replace(B, concurrency=0))) == LLM.concurrent_max
    assert concurrent_replies(configured()) == LLM.concurrent_max
