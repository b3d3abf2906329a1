"""Random ids: version 4 UUIDs (RFC 9562), from random bytes that are read in advance.

Reading them for each id would cost several system calls and releases of the GIL per request.
"""

import io
import os

BUFFER_BYTES = 1024  # 64 ids
VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # by a random digit


class Ids:
    """Generates ids. Not thread-safe."""

    def __init__(self) -> None:
        self._random_bytes = io.BytesIO()

    def uuid(self) -> str:
        """A UUID such as 9f1c2e4a-58b3-4d0e-8a77-3c1d5e6f7a8b."""
        digits = self.token()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:]}"

    def token(self) -> str:
        """32 hexadecimal digits, all of them random."""
        token = self._random_bytes.read(16)
        if not token:
            self._random_bytes = io.BytesIO(os.urandom(BUFFER_BYTES))
            token = self._random_bytes.read(16)
        return token.hex()
