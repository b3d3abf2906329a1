"""The clients of OpenAI's API that are tried, and what each case shows, whichever client it is. The table in
chatbot/api/README.md is made from this.
"""

import re
from dataclasses import dataclass, field
from typing import Any

CALLED = [["weather", {"city": "Seoul"}]]
BOTH_CALLED = [*CALLED, ["weather", {"city": "Busan"}]]
ENOUGH = {"text": "You said: Good morning!", "finish": "stop", "tokens": [2, 4, 6]}
THOUGHT = ["Six sevens.", "It is 42."]
EXPECTED: dict[str, dict[str, Any]] = {
    "models": {"listed": ["fake-model"], "retrieved": ["fake-model", "model"]},
    "plain": {**ENOUGH, "model": "fake-model"},
    "streamed": ENOUGH,
    "asynchronous": {"text": "You said: Good evening!"},
    "length": {"text": "On and", "finish": "length"},
    "transcript": {"text": "You said: Who am I?"},
    "tools": {"calls": CALLED, "finish": "tool_calls", "text": "There it is Seoul 21 °C."},
    "streamed_tools": {
        "calls": BOTH_CALLED,
        "finish": "tool_calls",
        "text": "There it is Seoul 21 °C and Busan 21 °C.",
    },
    "json_schema": {"value": {"result": 42}},
    "image": {"text": "A dot."},
    "reasoning": {"plain": THOUGHT, "streamed": THOUGHT},
    "refusal": {"plain": ["I will not.", None], "streamed": "I will not.", "finish": "stop"},
    "busy": {"text": "You said: Be busy once. Please."},
    "down": {"text": "You said: Be down once. Please."},
    "broken_off": {"text": "Half a "},
    "metadata": {"sessions": 1},
    "retried_conversation": {"text": "You said: Be busy once. In a conversation."},
    "repeated": {"text": "You said: Only once."},
}
ERRORS = {
    "model": [404, "invalid_request_error", "model", "model_not_found"],
    "value": [400, "invalid_request_error", "temperature", "invalid_value"],
    "streamed": [400, "invalid_request_error", "temperature", "invalid_value"],
    "choices": [400, "invalid_request_error", "n", "unsupported_parameter"],
    "key": [401, "invalid_request_error", None, "invalid_api_key"],
}
OUT_OF_RANGE = [400, "invalid_request_error", "top_p", "invalid_value"]  # llm checks the temperature itself
BUSY = [503, "server_error", None, "llm_overloaded"]  # the model server is, and says so with 429


@dataclass(frozen=True)
class Client:
    """`packages`: as .ci/client-tools installs them. `lacks`: cases for which the client has no way."""

    packages: tuple[str, ...]
    script: str
    environment: str = "clients"
    lacks: frozenset[str] = frozenset()
    differs: dict[str, Any] = field(default_factory=dict)  # what the client itself makes of a case

    @property
    def name(self) -> str:
        return self.packages[0]

    @property
    def title(self) -> str:
        """As in the table: `openai` 3.57.0 (PyPI)."""
        named = (re.fullmatch(r"(@?[^=@]+)(==|@)(.+)", package) for package in self.packages)
        words = [(found[1], found[3]) for found in named if found is not None]
        registry = "npm" if self.script.endswith(".mjs") else "PyPI"
        return f"{', '.join(f'`{name}` {version}' for name, version in words)} ({registry})"

    def expected(self, case: str) -> dict[str, Any]:
        return {**EXPECTED[case], **self.differs.get(case, {})}


NEVER = {"asynchronous", "models", "refusal", "retried_conversation"}
CLIENTS = (
    Client(("openai==3.57.0",), "openai_python.txt"),
    Client(("openai==2.54.0",), "openai_python.txt", "clients-older"),
    Client(("openai@7.59.0",), "openai_node.mjs", lacks=frozenset({"asynchronous", "refusal", "retried_conversation"})),
    Client(
        ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92"),
        "ai_sdk.mjs",
        lacks=frozenset({*NEVER, "metadata"}),
        differs={"tools": {"finish": "tool-calls"}, "streamed_tools": {"finish": "tool-calls"}},
    ),
    Client(("langchain-openai==1.7.4",), "langchain.txt", lacks=frozenset({*NEVER, "reasoning"})),
    Client(
        ("llm==0.36",),
        "llm.txt",
        lacks=frozenset({*NEVER, "length", "reasoning", "metadata", "repeated"}),
        differs={"errors": {"value": OUT_OF_RANGE, "streamed": OUT_OF_RANGE}},
    ),
)
# The columns of the table: what a client can do if it has these cases. Errors and retries every client has.
COLUMNS = {
    "plain": {"plain", "transcript"},
    "streamed": {"streamed"},
    "tools": {"tools", "streamed_tools"},
    "images": {"image"},
    "JSON schema": {"json_schema"},
    "reasoning": {"reasoning"},
    "errors": {"broken_off"},
    "retries": {"busy", "down"},
    "conversation": {"conversation"},
    "`Idempotency-Key`": {"repeated"},
}


def table() -> str:
    """The table of clients in Markdown."""
    rows = [["client", *COLUMNS]]
    rows += [
        [client.title, *("-" if cases & client.lacks else "yes" for cases in COLUMNS.values())] for client in CLIENTS
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
