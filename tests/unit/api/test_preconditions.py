"""What If-Match and Idempotency-Key say, and when two requests are one."""

from collections.abc import Set
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from multidict import CIMultiDict

from chatbot.api.problems import RequestFault
from chatbot.api.request_bodies import BranchBody, CancelBody, ChatBody, CreateSessionBody, ForkBody, RegenerateBody
from chatbot.api.requests import decode_body, if_match, matches_if_none_match, read_idempotency_key, session_id_for_key
from chatbot.sessions.domain.commands import IdempotencyKey

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'), min_size=1)


def idempotency_key(key: str, body: Struct | None = None, call: str = "chat") -> IdempotencyKey | None:
    return read_idempotency_key(
        make_mocked_request("POST", "/", headers={"Idempotency-Key": key}), call, body or CancelBody()
    )


def print_of(body: bytes, kind: type[Any] = ChatBody, call: str = "chat") -> str:
    found = idempotency_key("k", decode_body(body, kind), call)
    assert found is not None
    return found.fingerprint


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ('"0"', {0}),
        ('"17"', {17}),
        (' "3" ', {3}),
        ('W/"3"', {3}),
        ('"3-gzip"', {3}),
        ('W/"3--gzip", "4;br"', {3, 4}),
        ('"3","4" ,W/"5"', {3, 4, 5}),
        (', "3",, "3" ,', {3}),
        ('"x, y", "3", ""', {3}),
        ("*", None),
        (" * ", None),
    ],
)
def test_if_match_names_versions_or_any(text: str, versions: Set[int] | None) -> None:
    assert if_match(make_mocked_request("POST", "/", headers={"If-Match": text})) == versions


def test_a_condition_may_take_several_lines() -> None:
    several = CIMultiDict([("If-Match", '"3"'), ("If-Match", 'W/"5"'), ("If-None-Match", '"7"'), ("If-None-Match", "")])
    request = make_mocked_request("POST", "/", headers=several)
    assert if_match(request) == frozenset({3, 5})
    assert matches_if_none_match(request, 7)


@pytest.mark.parametrize("text", ['"4"', 'W/"4"', '"4-gzip"', '"3", "4"', 'W/"a", W/"4-br"', "*", " * "])
def test_a_version_that_the_client_has_is_known_in_every_form(text: str) -> None:
    assert matches_if_none_match(make_mocked_request("GET", "/", headers={"If-None-Match": text}), 4)


@pytest.mark.parametrize("text", ["", "4", '"5"', '"4-x"', '"04x"', '"4', '"5", 4', 'w/"4"', '"4" x'])
def test_a_version_is_not_known_by_another_tag_or_a_text_that_is_none(text: str) -> None:
    assert not matches_if_none_match(make_mocked_request("GET", "/", headers={"If-None-Match": text}), 4)
    assert not matches_if_none_match(make_mocked_request("GET", "/"), 4)


MANY = ", ".join(f'"{version}"' for version in range(33))


@pytest.mark.parametrize(
    "text", ["", "3", '*, "3"', '"3', '""', '"-1"', '"x"', '"3"x', '"3-lzma"', '"' + "9" * 19 + '"', ", ,", MANY]
)
def test_any_other_if_match_is_refused_with_its_path(text: str) -> None:
    with pytest.raises(RequestFault) as fault:
        if_match(make_mocked_request("POST", "/", headers={"If-Match": text}))
    assert (fault.value.status, fault.value.path) == (400, "header.If-Match")


def test_a_request_without_these_headers_has_no_conditions() -> None:
    bare = make_mocked_request("POST", "/")
    assert if_match(bare) is None
    assert read_idempotency_key(bare, "chat", CancelBody()) is None


@given(visible.filter(lambda key: len(key) <= 255))
def test_a_key_means_the_same_quoted_and_bare(key: str) -> None:
    found = idempotency_key(key)
    assert found == idempotency_key(f'"{key}"') == idempotency_key(f" {key} ")
    assert found is not None
    assert found.key == key


@pytest.mark.parametrize("text", ["", '"', '""', '"a', 'a"', '"a""', 'a"b', "a b", "x" * 256, "\xe9", "\x7f", "\x01"])
def test_any_other_key_is_refused_with_its_path(text: str) -> None:
    with pytest.raises(RequestFault) as fault:
        idempotency_key(text)
    assert (fault.value.status, fault.value.path) == (400, "header.Idempotency-Key")


@pytest.mark.parametrize(
    ("kind", "bodies"),
    [
        (
            ChatBody,
            [
                b'{"session_id":"s","message":"h\xc3\xa9"}',
                b' {"message" : "h\\u00e9", "session_id":"s"}\n',
                b'{"session_id":"s","message":"h\xc3\xa9","on_busy":"queue","top_p":null,"stop":null,"model":null}',
            ],
        ),
        (
            ChatBody,
            [
                b'{"session_id":"s","message":"m","temperature":1}',
                b'{"session_id":"s","message":"m","temperature":1.0}',
            ],
        ),
        (CreateSessionBody, [b"{}", b'{"metadata":null,"title":null,"system_prompt":null,"timeout_hours":null}']),
        (
            CreateSessionBody,
            [b'{"metadata":{"a":[1,{"b":2,"c":3}],"d":null}}', b'{"metadata":{"d":null,"a":[1,{"c":3,"b":2}]}}'],
        ),
        (RegenerateBody, [b"{}", b'{"message_id":null,"seed":null}']),
        (ForkBody, [b"{}", b'{"message_id":null}']),
    ],
)
def test_bodies_of_one_meaning_have_one_fingerprint(kind: type[Any], bodies: list[bytes]) -> None:
    assert len({print_of(body, kind) for body in bodies}) == 1


def test_bodies_of_another_meaning_and_other_calls_have_another_fingerprint() -> None:
    start = b'{"session_id":"s","message":"m"'
    rests = [b"}", b',"parent_id":null}', b',"parent_id":"p"}', b',"on_busy":"reject"}', b',"temperature":0}']
    rests += [b',"stop":["a"]}', b',"stop":["a","b"]}', b',"stop":["b","a"]}', b',"do_sample":false}', b',"seed":0}']
    prints = {print_of(start + rest) for rest in rests}
    prints |= {print_of(b'{"session_id":"s","message":"M"}'), print_of(start + b"}", call="regenerate")}
    assert len(prints) == len(rests) + 2
    assert print_of(b'{"message_id":"m"}', BranchBody) != print_of(b'{"message_id":"n"}', BranchBody)


def test_a_session_made_with_a_key_has_an_id_of_its_own_in_each_scope() -> None:
    key, other = IdempotencyKey("k", "f"), IdempotencyKey("l", "f")
    assert session_id_for_key(None, "new", "create_session", "mina") == "new"
    scopes = [("create_session", "mina"), ("create_session", "jun"), ("create_session", None)]
    more = [("fork_session", "mina", "one"), ("fork_session", "mina", "two"), ("fork_session", "jun", "one")]
    ids = [
        session_id_for_key(idempotency_key, "new", *scope)
        for idempotency_key in (key, other)
        for scope in (*scopes, *more)
    ]
    assert len(set(ids)) == 12
    assert ids[0] == session_id_for_key(IdempotencyKey("k", "another body"), "newer", "create_session", "mina")
