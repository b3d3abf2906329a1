"""Settings of the witness: which other logs this service signs."""

from typing import Annotated

from msgspec import Meta, Struct


class WitnessSettings(Struct, frozen=True):
    """[witness] This service as the witness of other logs (/witness/add-checkpoint). Without a key: it is none."""

    key_file: Annotated[
        str,
        Meta(
            description="File with the secret key of the witness, as `chatbot keygen --witness` writes it.",
            extra={"allowed": "empty, or a file's path"},
        ),
    ] = ""
    logs: Annotated[
        tuple[str, ...],
        Meta(
            description="The logs that are witnessed: name (as `chatbot anchor` and /api/audit/head show it), a space,"
            " and public key of each. A log with two keys is listed twice.",
            extra={"allowed": "a log's name, a space and its public key each"},
        ),
    ] = ()
    requests_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Most checkpoints that are looked at in a minute, in each process: checking a signature costs"
            " time.",
        ),
    ] = 60
