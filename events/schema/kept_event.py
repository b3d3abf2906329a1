"""What a redaction leaves of an event."""

from msgspec import Struct


class KeptEvent(Struct, frozen=True, omit_defaults=True):
    """What is left of the event at `version` of the session: its JSON with Redacted parts in place of the content.

    `salt`, in base64, of an event with parts whose other fields are unchanged: S0 and then for each part its salt of 16
    bytes or, where the part is redacted, its commitment of 32. With it, what is left still follows from the commitment
    in the event's row (`events/integrity/commitments.py`). Empty: there is no such proof.
    """

    version: int
    schema_version: int
    data: str
    salt: str = ""
