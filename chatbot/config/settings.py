"""All settings in force, by section. Frozen; `load.py` makes them, `check.py` holds them against each other.

Each setting is written once, here and in the four modules of sections: its type and bounds, its meaning with unit and
reason (`description`), its default, and in `extra` the name of its environment variable where that is not the regular
CHATBOT_<SECTION>_<NAME>, whether it is secret, and what is allowed where bounds do not say it. config.toml, the
README's table and every error message are made from that.
"""

from msgspec import Struct

from chatbot.config.edge import AuthSettings, LoggingSettings, ServerSettings, StreamSettings
from chatbot.config.nodes import NodeSettings
from chatbot.config.replies import ChatSettings, EmbeddedSettings, LlmSettings
from chatbot.config.storage import DatabaseSettings, SessionSettings


class Settings(Struct, frozen=True):
    """Every setting. `Settings()` is the defaults, unchecked as any struct made by hand."""

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    database: DatabaseSettings = DatabaseSettings()
    sessions: SessionSettings = SessionSettings()
    chat: ChatSettings = ChatSettings()
    llm: LlmSettings = LlmSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    stream: StreamSettings = StreamSettings()
    nodes: NodeSettings = NodeSettings()
    logging: LoggingSettings = LoggingSettings()
