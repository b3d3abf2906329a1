"""Whatever a client sends in headers, addresses and bodies is read, ignored, or refused with the path of the fault."""

import base64
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from chatbot.api import request_bodies
from chatbot.api.access.key_bodies import AddKeyBody, RotateKeyBody
from chatbot.api.access.tickets import Ticket, sign_ticket, verify_ticket
from chatbot.api.erasure.erasure_bodies import EraseBody, HoldBody, RedactBody, ReleaseBody
from chatbot.api.media.decoded_files import decode_files
from chatbot.api.media.media_types import HEAD_BYTES, detect_media_type
from chatbot.api.message_parts import PostedFile
from chatbot.api.middleware import check_host_and_origin, request_id_of
from chatbot.api.part_bodies import ImageUrl, ImageUrlBody
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.requests import (
    canonical_id,
    check_chat,
    decode_body,
    if_match,
    matches_if_none_match,
    prefers_async,
    read_cursor,
    read_idempotency_key,
)
from chatbot.api.server.parse_errors import find_origin
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import Services
from chatbot.api.v1.completion_requests import check_completion, completion_parameters, read_completion
from chatbot.api.v1.conversation_names import conversation_of
from chatbot.api.v1.end_users import end_user_of
from chatbot.api.v1.request_messages import images_of, request_messages
from chatbot.config.sections.server_settings import ServerSettings
from chatbot.config.settings import Settings
from chatbot.keys.secrets import ticket_key
from events.schema.parts import Media
from tests.fuzz.damage import damaged

SETTINGS = Settings()
HEADER = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60)
HEADER |= st.sampled_from(
    ('"1"', 'W/"1"', "*", '"1-gzip", "2"', '"' * 40, "0:0", "18446744073709551616:1", "1:", ":1", "²:³", "bytes=0-1",
     "bytes=-1", "respond-async", "localhost:8080", "[::1]:99999", "a" * 300, "http://localhost", "null", "Bearer ",
     "https://[::1", "127.0.0.1", "evil.example:", "%00", "٣:٣")
)  # fmt: skip
BODIES = [
    kind
    for module in (request_bodies,)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__name__.endswith("Body")
] + [AddKeyBody, RotateKeyBody, EraseBody, HoldBody, RedactBody, ReleaseBody]
SAMPLES = [
    b'{"session_id": "00000000-0000-4000-8000-000000000000", "message": "hi", "temperature": 0.5, "stop": ["a"]}',
    b'{"message": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,"}}],'
    b' "session_id": "x", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1]}}}]}',
    b'{"role": "tool", "session_id": "x", "message": [{"type": "tool_result", "call_id": "c", "content": "y"}]}',
    b'{"title": null, "metadata": {"a": {"b": [1, 2.5e3, "\\ud83d\\ude42"]}}, "timeout_hours": 0.1, "pinned": true}',
    b'{"name": "jun", "scopes": ["chat"], "expires_at": "2026-01-31T09:00:00Z", "overlap_seconds": 5}',
    b"\xef\xbb\xbf{}",
]
COMPLETIONS = [
    b'{"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text",'
    b' "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}], "seed": 1}',
    b'{"model": "m", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls":'
    b' [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool",'
    b' "tool_call_id": "c", "content": "r"}], "stream": true, "stream_options": {"include_usage": true}}',
]


SECRET = b"x" * 32


def keys_of(_: int) -> dict[bytes, bytes]:
    """The keys of tickets in a bucket."""
    return {SECRET: ticket_key(SECRET)}


def request_with(**headers: str) -> web.Request:
    named = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
    transport = SimpleNamespace(
        get_extra_info=lambda name, default=None: {"sockname": ("127.0.0.1", 1)}.get(name, default)
    )
    return make_mocked_request("POST", "/api/chat", headers=named, transport=transport)


@given(HEADER)
def test_a_header_is_read_ignored_or_refused(value: str) -> None:
    request = request_with(
        If_Match=value, If_None_Match=value, Prefer=value, Idempotency_Key=value, Last_Event_ID=value, Host=value,
        Origin=value, X_Forwarded_Prefix=value, X_Request_ID=value, Sec_Fetch_Site=value,
    )  # fmt: skip
    for read in (
        if_match,
        read_cursor,
        prefers_async,
        lambda one: matches_if_none_match(one, 1),
        lambda one: read_idempotency_key(one, "call", AddKeyBody("a", ("chat",))),
        lambda one: check_host_and_origin(one, ServerSettings(hosts=("chat.example",))),
        lambda one: prefix_of(one, ServerSettings(trusted_proxies=("127.0.0.1",))),
    ):
        with suppress(RequestFault, Problem):
            read(request)
    services = cast(Services, SimpleNamespace(new_token=lambda: "new"))
    assert request_id_of(request, services).isascii()
    canonical_id(value)


@given(st.binary(max_size=300) | damaged([b"GET / HTTP/1.1\r\nOrigin: https://a\r\nHost: x\r\n\r\n"]))
def test_the_origin_in_bytes_that_are_no_request(data: bytes) -> None:
    found = find_origin(data)
    assert found is None or len(found) <= 300


@given(st.text(max_size=150) | st.binary(max_size=80).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_text_is_a_ticket_but_a_signed_one(text: str) -> None:
    assert verify_ticket(text, keys_of) is None


@given(st.integers(0, 75), st.integers(1, 255))
def test_a_ticket_with_another_bit_is_none(at: int, flipped: int) -> None:
    ticket = bytearray(sign_ticket(Ticket(SECRET, None, 1), 7), "ascii")
    at %= len(ticket)
    ticket[at] ^= flipped
    found = verify_ticket(ticket.decode("latin-1"), keys_of)
    # the last character of Base64 has bits that mean nothing
    assert found is None or at == len(ticket) - 1


@given(st.sampled_from(BODIES), damaged(SAMPLES, changes_max=5))
def test_a_body_is_decoded_or_refused(kind: type[Any], data: bytes) -> None:
    with suppress(RequestFault):
        body = decode_body(data, kind)
        if isinstance(body, request_bodies.ChatBody):
            check_chat(body, SETTINGS)


@given(damaged(COMPLETIONS, changes_max=5))
def test_a_body_of_v1_is_a_transcript_or_refused(data: bytes) -> None:
    with suppress(RequestFault):
        body = read_completion(data)
        check_completion(body, 100)
        completion_parameters(body, data, SETTINGS.chat, 100)
        files = decode_files(images_of(body.messages))
        request_messages(
            body.messages, {one.path: Media(one.sha256, "image/png", len(one.data)) for one in files}, 1000
        )


@given(
    st.dictionaries(st.sampled_from(("x-session-id", "x-openwebui-chat-id", "x-openwebui-task")), HEADER), st.booleans()
)
def test_the_name_of_a_conversation(headers: dict[str, str], stream: bool) -> None:
    fields = ("X-Session-Id", "X-OpenWebUI-Chat-Id", "metadata.chat")
    with suppress(RequestFault):
        conversation_of(CIMultiDict(headers), {"chat": headers}, fields, stream=stream)


@given(damaged([b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqdW4iLCJleHAiOjF9.c2ln", b"a.b.c", b"..", b"."]))
def test_a_token_that_is_not_signed_is_refused(token: bytes) -> None:
    headers = {"X-OpenWebUI-User-Jwt": token.decode("latin-1")}
    with suppress(RequestFault):
        assert end_user_of(CIMultiDict(headers), {}, "s" * 32, 0.0, is_trusted=False) is None


@given(st.binary(max_size=40), st.text(max_size=30))
def test_a_file_is_known_by_its_first_bytes_alone(data: bytes, stated: str) -> None:
    found = detect_media_type(data[:HEAD_BYTES])
    assert found == detect_media_type(data)
    for url in (f"data:{stated};base64,{base64.b64encode(data).decode()}", f"data:image/png;base64,{stated}", stated):
        with suppress(RequestFault):
            decode_files([PostedFile("$", ImageUrlBody(ImageUrl(url)))])
