"""Mutual authentication of nodes (challenge-response, HMAC-SHA256) by `nodes.secret`, which is never sent.

1. The client asks `GET /challenge?nonce=C` with a nonce of its own.
2. The server answers its name, a nonce S, and HMAC(secret, "server", C, S, name). So the client knows
   that it is connected to the intended process before it sends anything.
3. The client sends its request with HMAC(secret, "client", S, method, path and query, SHA-256 of the body).

The server accepts each S once and for a limited time, so a captured request cannot be replayed. S contains its expiry
and a tag that authenticates it, so the server stores no nonces that it has issued: clients without the secret cannot
exhaust its memory. It stores used nonces until they expire, and only clients with the secret can use one.
"""

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

SCHEME = "CHATBOT-HMAC-SHA256"
NONCE_BYTES = 16
TAG_BYTES = 16
EXPIRY_BYTES = 8  # milliseconds of the server's monotonic clock
NONCE_LIFE_S = 30.0  # between challenge and request: far more than a slow network needs
USED_MAX = 100_000  # used nonces, 10 MB: 3,000 requests a second, more than nodes send to each other
CLIENT_NONCE_MAX_CHARS = 64


class Challenge(Struct, frozen=True):
    """The answer of GET /challenge. `proof` is the server's HMAC."""

    node: str
    nonce: str
    proof: str


class Challenger:
    """The server's side. `timer` gives monotonic seconds, `random_bytes` unpredictable ones."""

    def __init__(
        self, secret: str, node: str, timer: Callable[[], float], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._secret = secret
        self._node = node
        self._timer = timer
        self._random_bytes = random_bytes
        self._own_key = random_bytes(32)  # only this process checks the tags of its nonces
        self._used: OrderedDict[str, int] = OrderedDict()  # nonce: its expiry in ms, in order of use

    def challenge(self, client_nonce: str) -> Challenge:
        """A fresh nonce, and the proof that this node knows the secret."""
        expiry = self._now_ms() + int(NONCE_LIFE_S * 1000)
        payload = self._random_bytes(NONCE_BYTES) + expiry.to_bytes(EXPIRY_BYTES)
        nonce = (payload + self._tag(payload)).hex()
        return Challenge(self._node, nonce, server_proof(self._secret, client_nonce, nonce, self._node))

    def refusal(self, authorization: str, request: "Request") -> str | None:
        """Why the request is refused; None if it is authentic: then its nonce is used up."""
        scheme, _, rest = authorization.partition(" ")
        nonce, _, proof = rest.partition(" ")
        if scheme != SCHEME:
            return f"this is for nodes that share nodes.secret, and prove it by {SCHEME}"
        expiry = self._expiry(nonce)
        now_ms = self._now_ms()
        if expiry is None or expiry < now_ms:
            return "the nonce is not a fresh one of this node"
        expected = client_proof(self._secret, nonce, request)
        if not hmac.compare_digest(proof.encode(errors="replace"), expected.encode()):
            return "the proof does not fit the request: another nodes.secret, or the request was changed"
        if nonce in self._used:
            return "the nonce was used before"
        self._forget_expired(now_ms)
        if len(self._used) >= USED_MAX:
            return "too many requests of other nodes"
        self._used[nonce] = expiry
        return None

    def _now_ms(self) -> int:
        return int(self._timer() * 1000)

    def _tag(self, payload: bytes) -> bytes:
        return hmac.digest(self._own_key, payload, hashlib.sha256)[:TAG_BYTES]

    def _expiry(self, nonce: str) -> int | None:
        """When the nonce expires, in milliseconds of the timer; None if this process has not issued it."""
        try:
            raw = bytes.fromhex(nonce)
        except ValueError:
            return None
        payload, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
        if (
            len(payload) != NONCE_BYTES + EXPIRY_BYTES
            or nonce != raw.hex()
            or not hmac.compare_digest(tag, self._tag(payload))
        ):
            return None
        return int.from_bytes(payload[NONCE_BYTES:])

    def _forget_expired(self, now_ms: int) -> None:
        """Remove expired nonces, in order of use, up to the first that is not expired."""
        while self._used and next(iter(self._used.values())) < now_ms:
            self._used.popitem(last=False)


class Request(Struct, frozen=True):
    """What a proof is bound to: `target` is path and query exactly as sent."""

    method: str
    target: str
    body: bytes = b""


def authorization(secret: str, nonce: str, request: Request) -> str:
    """The client's Authorization header."""
    return f"{SCHEME} {nonce} {client_proof(secret, nonce, request)}"


def client_proof(secret: str, nonce: str, request: Request) -> str:
    return _mac(secret, "client", nonce, request.method, request.target, hashlib.sha256(request.body).hexdigest())


def server_proof(secret: str, client_nonce: str, nonce: str, node: str) -> str:
    return _mac(secret, "server", client_nonce, nonce, node)


def is_genuine(challenge: Challenge, secret: str, client_nonce: str) -> bool:
    """Whether the sender of the challenge knows the secret."""
    expected = server_proof(secret, client_nonce, challenge.nonce, challenge.node)
    return hmac.compare_digest(challenge.proof.encode(), expected.encode())


def _mac(secret: str, *fields: str) -> str:
    """HMAC of the fields, each prefixed with its length, so that no two lists of fields have the same encoding."""
    message = b"".join(len(field).to_bytes(8) + field for field in (text.encode() for text in fields))
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
