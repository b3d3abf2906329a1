"""The clients of OpenAI's responses and conversations that are tried, and what each case shows, whichever client it is.
The table in chatbot/api/README.md is made from this.
"""

from typing import Any

from tests.integration.clients.expectations import Client

HELLO = "You said: Good morning!"
GONE = 404
EXPECTED: dict[str, dict[str, Any]] = {
    "plain": {"text": HELLO, "shown": ["response", "completed", 0.5, 50, "greeting"], "tokens": [4, 4, 8]},
    "streamed": {"text": HELLO, "gapless": True, "final": HELLO},
    "resumed": {"text": "I do go on.", "gapless": True, "same": True, "end": True},
    "background": {"waiting": True, "text": "I do go on."},
    "cancelled": {"status": "cancelled", "same": True},
    "previous": {"texts": ["You said: Two.", "You said: Three."], "items": ["Two."], "counted": True},
    "conversation": {
        "topics": ["names", "people", "people"],
        "texts": ["I am Mina.", "Who am I?", "You said: Who am I?", "Note this."],
        "left": 3,
        "deleted": [True, GONE],
    },
    "tools": {
        "calls": [["weather", {"city": "Seoul"}]],
        "text": "There it is Seoul 21 °C.",
        "streamed": [{"city": "Seoul"}],
    },
    "json_schema": {"value": 42},
    "image": {"text": "A dot."},
    "reasoning": {"plain": ["Six sevens.", "It is 42."], "streamed": "Six sevens."},
    "refusal": {"plain": "I will not."},
    "length": {"text": "On and", "reason": "max_output_tokens"},
    "unstored": {"text": HELLO, "gone": GONE},
    "deleted": {"gone": GONE},
    "errors": {
        "model": ["NotFoundError", 404, "invalid_request_error", "model", "model_not_found"],
        "value": ["BadRequestError", 400, "invalid_request_error", "temperature", "invalid_value"],
        "tool": ["BadRequestError", 400, "invalid_request_error", "tools[0].type", "unsupported_parameter"],
        "key": ["AuthenticationError", 401, "invalid_request_error", None, "invalid_api_key"],
    },
}
ONLY_API = {"resumed", "background", "cancelled", "reasoning", "refusal", "length", "unstored", "deleted", "errors"}
CLIENTS = (
    Client(("openai==3.57.0",), "responses_python.txt"),
    Client(("openai==2.54.0",), "responses_python.txt", "clients-older"),
    Client(("openai@7.59.0",), "responses_node.mjs"),
    Client(
        ("langchain-openai==1.7.4",),
        "responses_langchain.txt",
        lacks=frozenset(ONLY_API),
        differs={"conversation": {"texts": ["I am Mina.", "You said: I am Mina.", "Who am I?", "You said: Who am I?"]}},
    ),
    Client(
        ("openai-agents==0.24.0",),
        "responses_agents.txt",
        "agents",
        lacks=frozenset({*ONLY_API, "json_schema", "image"}),
        differs={
            "conversation": {
                "kinds": [
                    "message",
                    "message",
                    "message",
                    "message",
                    "function_call",
                    "function_call_output",
                    "message",
                ],
                "kept": 4,
            }
        },
    ),
)
# The columns of the table: what a client can do if it has these cases.
COLUMNS = {
    "plain": {"plain"},
    "streamed": {"streamed"},
    "resumed": {"resumed"},
    "background, cancel": {"background", "cancelled"},
    "previous response": {"previous"},
    "conversation": {"conversation"},
    "tools": {"tools"},
    "JSON schema": {"json_schema"},
    "images": {"image"},
    "not stored, deleted": {"unstored", "deleted"},
}


def table() -> str:
    """The table of clients in Markdown."""
    rows = [["client", *COLUMNS]]
    rows += [
        [client.title, *("-" if cases & client.lacks else "yes" for cases in COLUMNS.values())] for client in CLIENTS
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
