"""Checks of transcripts that all protocols in which clients send whole ones have in common. Pure."""

from chatbot.api.problems import RequestFault
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.schema.parts import Text


def check_newest(message: TranscriptMessage, path: str) -> None:
    """Of a transcript's last message: the user's must say something. Earlier ones may be blank, because clients keep
    what they once sent. Raises RequestFault.
    """
    if message.role == "user" and all(isinstance(part, Text) and not part.text.strip() for part in message.parts):
        raise RequestFault("must not be empty or blank", path)
