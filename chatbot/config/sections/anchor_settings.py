"""Settings of anchors: signed checkpoints of the log in places that the operator cannot rewrite."""

from typing import Annotated

from msgspec import Meta, Struct


class AnchorSettings(Struct, frozen=True):
    """[anchors] Signed checkpoints that the service writes elsewhere by itself. Without targets: none."""

    key_file: Annotated[
        str,
        Meta(
            description="File with the secret key of `chatbot keygen` that signs them and receipts of erasures.",
            extra={"allowed": "empty, or a file's path"},
        ),
    ] = ""
    targets: Annotated[
        tuple[str, ...],
        Meta(
            description="Where they are written: folders, s3://BUCKET/PREFIX, URLs of witnesses.",
            extra={"allowed": "targets as `chatbot anchor --to` takes them"},
        ),
    ] = ()
    interval_s: Annotated[
        float,
        Meta(ge=1, le=31_536_000, description="Seconds between two anchors; none is written if the log has not grown."),
    ] = 3600.0
