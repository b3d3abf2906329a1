"""An end user is believed who is in a signed token, or whom a trusted front end names; nobody else."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from chatbot.api.problems import RequestFault
from chatbot.api.v1.end_users import TOKEN_FIELD, USER_FIELD, end_user_of

SECRET, NOW_S = "correct-horse-battery", 1_800_000_000.0
CLAIMS = {"sub": "u1", "email": "u@example.org", "name": "U", "role": "user", "iss": "open-webui", "iat": NOW_S}


def part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def token(secret: str = SECRET, head: Any = None, **claims: Any) -> str:
    """As PyJWT makes it."""
    header = part(json.dumps(head or {"alg": "HS256", "typ": "JWT"}).encode())
    signed = f"{header}.{part(json.dumps({**CLAIMS, 'exp': NOW_S + 300, **claims}).encode())}"
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def end_user(
    headers: Mapping[str, str], secret: str = "", *, user: str | None = None, is_trusted: bool = True
) -> str | None:
    return end_user_of(
        CIMultiDict(headers), {"user": user, "safety_identifier": None}, secret, NOW_S, is_trusted=is_trusted
    )


def with_token(text: str, *, is_trusted: bool = False) -> str | None:
    return end_user({TOKEN_FIELD: text}, SECRET, is_trusted=is_trusted)


def test_a_trusted_front_end_is_taken_at_its_word() -> None:
    assert end_user({USER_FIELD: "u1"}) == "u1"
    assert end_user({}, user="u2") == "u2"
    assert end_user({USER_FIELD: "u1"}, user="u2") == "u1"
    assert end_user({USER_FIELD: " "}, user="u2") == "u2"
    assert end_user({}) is None


def test_others_are_not() -> None:
    assert end_user({USER_FIELD: "u1"}, user="u2", is_trusted=False) is None
    assert end_user({TOKEN_FIELD: token()}) is None, "without a secret no token can be checked"


def test_a_signed_user_is_believed_whoever_sends_it() -> None:
    assert with_token(token()) == "u1"
    assert with_token(token(exp=NOW_S - 59)) == "u1", "clocks may differ by a minute"


def test_with_a_secret_only_the_signature_counts() -> None:
    assert end_user({USER_FIELD: "u1"}, SECRET, user="u2") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (token(secret="another secret of 16"), "not signed"),
        (token(head={"alg": "none"}), "not signed"),
        (token(head={"alg": "HS512"}), "not signed"),
        (token() + "x" * 5000, "not signed"),
        (token().rpartition(".")[0] + ".", "not signed"),
        ("a.b", "not a token"),
        ("ä.b.c", "not a token"),
        ("%.%.%", "not a token"),
        (token(exp=NOW_S - 61), "expired"),
        (token(exp=None), "not a token"),
        (token(sub=7), "not a token"),
        (token(sub=""), "empty sub"),
        (token(sub="x" * 256), "up to 255"),
    ],
)  # fmt: skip
def test_a_token_that_proves_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(RequestFault) as refused:
        with_token(text, is_trusted=True)
    assert refused.value.path == f"header.{TOKEN_FIELD}"
    assert why.removeprefix("not a token") in refused.value.detail


@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_token(text: str) -> None:
    if not text.strip():
        assert with_token(text) is None
        return
    with pytest.raises(RequestFault):
        with_token(text)


@given(st.integers(min_value=0), st.sampled_from("Az09-_."))
def test_a_token_that_was_changed_is_refused(at: int, letter: str) -> None:
    whole = token()
    at %= len(whole)
    changed = whole[:at] + letter + whole[at + 1 :]
    if changed.rstrip("=") == whole or _decoded(changed) == _decoded(whole):
        return
    with pytest.raises(RequestFault):
        with_token(changed)


def _decoded(text: str) -> object:
    """The parts of a token; the last letter of a part has bits that mean nothing."""
    signed, _, signature = text.rpartition(".")
    try:
        return signed, base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    except ValueError:
        return text
