"""Signed receipts. The text that is signed is the line `chatbot receipt 1` and the receipt as JSON in one line, without
its signature, members in the order of their names: https://c2sp.org/signed-note, Ed25519 (RFC 8032).
"""

from msgspec import UNSET
from msgspec.json import encode
from msgspec.structs import replace

from chatbot.audit.receipt import Receipt
from events.integrity.signed_checkpoint import check_signature, read_signer, signature_line

FORM = "chatbot receipt 1"


def sign_receipt(receipt: Receipt, signer: str) -> Receipt:
    """`receipt` with the signature of the secret key `signer`. Raises InvalidCheckpoint for what is no such key."""
    name, key_id, private = read_signer(signer)
    line = signature_line(name, key_id, private.sign(_signed_text(receipt).encode()))
    return replace(receipt, signature=line.rstrip("\n"))


def check_receipt(receipt: Receipt, verifier: str) -> None:
    """Raises InvalidCheckpoint unless the secret key that belongs to `verifier` has signed the receipt."""
    signature = "" if receipt.signature is UNSET else receipt.signature
    check_signature(f"{_signed_text(receipt)}\n{signature}\n", verifier)


def _signed_text(receipt: Receipt) -> str:
    return f"{FORM}\n{encode(replace(receipt, signature=UNSET), order='sorted').decode()}\n"
