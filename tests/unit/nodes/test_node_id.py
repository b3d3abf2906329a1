"""A node's name: its address, and which of its lives it is."""

import pytest

from chatbot.nodes.node_id import NodeAddress, format_node_id, parse_node_id


@pytest.mark.parametrize(("host", "url"), [("10.0.0.5", "http://10.0.0.5:81"), ("::1", "http://[::1]:81")])
def test_a_name_leads_back_to_its_address(host: str, url: str) -> None:
    assert parse_node_id(format_node_id(host, 81, "0123abcd")) == NodeAddress(url, "0123abcd")


@pytest.mark.parametrize(
    "name", [None, "", "some-machine", "http://host:1", "http://host:1#short", "http://a/b:1#0123abcd"]
)
def test_what_is_no_nodes_name_has_no_address(name: str | None) -> None:
    """As a process that served alone has recorded it."""
    assert parse_node_id(name) is None
