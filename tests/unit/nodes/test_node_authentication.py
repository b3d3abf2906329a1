"""The proofs by which nodes know each other: fresh, for one request, by who knows the secret."""

import os

import pytest
from msgspec.structs import replace

from chatbot.nodes import node_authentication
from chatbot.nodes.node_authentication import NONCE_LIFE_S, Challenger, Request, authorization, is_genuine
from tests.support.clocks import ManualClock

SECRET, OTHER = "a-secret-that-all-nodes-share", "another-secret-of-somebody"
NODE = "http://10.0.0.5:8081#0123abcd"
ASKED = Request("POST", "/replies/s/r/cancel?x=1", b'{"cause":"client"}')


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def challenger(clock: ManualClock) -> Challenger:
    return Challenger(SECRET, NODE, clock, os.urandom)


def signed(challenger: Challenger, secret: str = SECRET, request: Request = ASKED) -> str:
    return authorization(secret, challenger.challenge("mine").nonce, request)


def test_a_request_with_its_proof_is_taken_once(challenger: Challenger) -> None:
    proof = signed(challenger)
    assert challenger.refusal(proof, ASKED) is None
    assert challenger.refusal(proof, ASKED) == "the nonce was used before"


@pytest.mark.parametrize(
    "changed",
    [
        replace(ASKED, method="GET"),
        replace(ASKED, target="/replies/s/other/cancel?x=1"),
        replace(ASKED, target="/replies/s/r/cancel"),
        replace(ASKED, body=b""),
        replace(ASKED, body=b'{"cause":"client"} '),
    ],
)
def test_a_proof_is_for_its_own_request_only(challenger: Challenger, changed: Request) -> None:
    proof = signed(challenger)
    assert "does not fit" in str(challenger.refusal(proof, changed))
    assert challenger.refusal(proof, ASKED) is None, "a forged request does not spend it"


def test_another_secret_is_refused_on_both_sides(challenger: Challenger) -> None:
    assert "does not fit" in str(challenger.refusal(signed(challenger, OTHER), ASKED))
    challenge = challenger.challenge("mine")
    assert is_genuine(challenge, SECRET, "mine")
    assert not is_genuine(challenge, OTHER, "mine")
    assert not is_genuine(challenge, SECRET, "another nonce"), "an overheard challenge"
    assert not is_genuine(replace(challenge, node="http://10.0.0.6:8081#0123abcd"), SECRET, "mine")
    assert not is_genuine(replace(challenge, nonce=challenger.challenge("mine").nonce), SECRET, "mine")
    assert not is_genuine(replace(challenge, proof="é"), SECRET, "mine")


def test_the_servers_proof_is_no_proof_of_a_client(challenger: Challenger) -> None:
    """Fields are framed and told apart by a role, so that neither can be got from the other."""
    challenge = challenger.challenge("mine")
    for proof in (challenge.proof, "", "0" * 64):
        assert challenger.refusal(f"{node_authentication.SCHEME} {challenge.nonce} {proof}", ASKED)


def test_a_nonce_expires(challenger: Challenger, clock: ManualClock) -> None:
    early, late = signed(challenger), signed(challenger)
    clock.now_s += NONCE_LIFE_S
    assert challenger.refusal(early, ASKED) is None
    clock.now_s += 0.002
    assert challenger.refusal(late, ASKED) == "the nonce is not a fresh one of this node"
    assert "fresh" in str(challenger.refusal(early, ASKED)), "nor can a used one be used again"


def test_nonces_of_another_process_or_forged_ones_are_refused(challenger: Challenger, clock: ManualClock) -> None:
    other = Challenger(SECRET, NODE, clock, os.urandom)
    assert "fresh" in str(challenger.refusal(signed(other), ASKED))
    nonce = challenger.challenge("mine").nonce
    later = f"{nonce[:32]}{'7f'}{nonce[34:]}"
    for forged in (later, nonce.upper(), nonce[:-2], nonce + "00", "", "zz", "é"):
        assert "fresh" in str(challenger.refusal(authorization(SECRET, forged, ASKED), ASKED)), forged


@pytest.mark.parametrize(
    "header", ["", f"Bearer {SECRET}", node_authentication.SCHEME, f"{node_authentication.SCHEME} a b c"]
)
def test_other_headers_are_refused(challenger: Challenger, header: str) -> None:
    assert challenger.refusal(header, ASKED) is not None


def test_used_nonces_are_bounded_and_forgotten(
    challenger: Challenger, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_authentication, "USED_MAX", 3)
    for _ in range(3):
        assert challenger.refusal(signed(challenger), ASKED) is None
    assert "too many" in str(challenger.refusal(signed(challenger), ASKED))
    clock.now_s += NONCE_LIFE_S + 0.002
    assert challenger.refusal(signed(challenger), ASKED) is None
    assert len(challenger._used) == 1
