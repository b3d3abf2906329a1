"""For which of its users a front end sends a request: by a signed token, or by its word if its key is trusted. Pure."""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from chatbot.api.problems import RequestFault
from chatbot.api.v1.conversation_names import checked_name

TOKEN_FIELD = "X-OpenWebUI-User-Jwt"  # noqa: S105  the header's name
USER_FIELD = "X-OpenWebUI-User-Id"
TOKEN_MAX_CHARS = 4096  # Open WebUI's have a few hundred
LEEWAY_S = 60  # by which the clocks of the two machines may differ


class _Header(Struct):
    alg: str


class _Claims(Struct):
    """`sub` is the user's id, `exp` Unix seconds."""

    sub: str
    exp: float


def end_user_of(
    headers: Mapping[str, str], body_users: Mapping[str, str | None], secret: str, now_s: float, *, is_trusted: bool
) -> str | None:
    """The end user's id; None where nobody is named who is to be believed.

    With a `secret` only a token that is signed with it counts, from any key. Without one the word of a trusted key
    counts: a header, or the first of `body_users`, fields of the body by name. Raises RequestFault.
    """
    if secret:
        token = headers.get(TOKEN_FIELD, "").strip()
        return _user_of_token(token, secret, now_s) if token else None
    if not is_trusted:
        return None
    name = checked_name(headers.get(USER_FIELD), f"header.{USER_FIELD}")
    given = (checked_name(value, f"$.{field}") for field, value in body_users.items())
    return name or next(filter(None, given), None)


def _user_of_token(token: str, secret: str, now_s: float) -> str:
    """The user of a JSON Web Token (RFC 7519) with HMAC and SHA-256. No other algorithm is accepted."""
    signed, _, signature = token.rpartition(".")
    head, _, claims = signed.partition(".")
    try:
        expected = hmac.digest(secret.encode(), signed.encode("ascii"), hashlib.sha256)
        is_signed = len(token) <= TOKEN_MAX_CHARS and hmac.compare_digest(expected, _decode(signature))
        if not is_signed or msgspec.json.decode(_decode(head), type=_Header).alg != "HS256":
            raise _refused("is not signed with the secret of v1.user_jwt_secret")
        read = msgspec.json.decode(_decode(claims), type=_Claims)
    except ValueError:  # not ASCII, Base64 or JSON, or of another form
        raise _refused("is not a token with sub and exp") from None
    if read.exp + LEEWAY_S < now_s:
        raise _refused("has expired")
    user = checked_name(read.sub, f"header.{TOKEN_FIELD}")
    if not user:
        raise _refused("has an empty sub")
    return user


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _refused(why: str) -> RequestFault:
    return RequestFault(why, f"header.{TOKEN_FIELD}", status=400)
