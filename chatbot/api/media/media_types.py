"""The type of a file, by its first bytes: what a client says of it is not believed."""

HEAD_BYTES = 12  # as many as a signature has

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def detect_media_type(head: bytes) -> str | None:
    """The media type of a file that begins with `head`, HEAD_BYTES of it or all; None for all other files."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in _SIGNATURES if head.startswith(signature)), None)
