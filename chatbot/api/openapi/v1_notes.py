"""What the types of /v1 do not express: the meaning of fields, and their limits in the configured service."""

from typing import Any

from chatbot.config.settings import Settings

IGNORED = {"description": "Accepted without effect."}
REFUSED = {"type": "null", "description": "Refused: silence would mislead."}


def v1_notes(settings: Settings) -> dict[str, dict[str, dict[str, Any]]]:
    """Members to add to the schemas of fields, by the names of types and fields."""
    v1, chat = settings.v1, settings.chat
    tokens = f"Tokens of the reply at most; more than {chat.max_tokens_ceiling} count as that many."
    return {
        "CompletionBody": {
            "messages": {
                "maxItems": v1.messages_max,
                "description": f"The conversation so far, up to {v1.message_max_chars} characters each. Leading system"
                " messages are this turn's system prompt.",
            },
            "model": {"description": "One of /v1/models."},
            "stream": {"description": "Whether the answer is a stream of chunks."},
            "max_completion_tokens": {"description": f"{tokens} Absent: half of the model's context."},
            "max_tokens": {"description": "The older name of max_completion_tokens."},
            "stop": {"description": "Texts at which the reply ends."},
            "tools": {
                "maxItems": chat.tools_max,
                "description": f"Functions that the model may call; up to {chat.tools_max_bytes} bytes of JSON.",
            },
            "tool_choice": {"description": "none, auto, required, or a function."},
            "response_format": {
                "description": f"What the reply is to look like, up to {chat.response_format_max_bytes} bytes of JSON."
            },
            "reasoning_effort": {"description": "How long to think, in the model server's own words."},
            "n": {"minimum": 1, "maximum": 1, "description": "A request gets one reply."},
            "logprobs": {"description": "Refused if true."},
            "functions": REFUSED,
            "function_call": REFUSED,
            "audio": REFUSED,
            "web_search_options": REFUSED,
            "metadata": {
                "description": "Its `session_id` names the conversation, unless a header does"
                f" ({', '.join(v1.conversation_fields)}). All else is ignored."
            },
            "user": {"description": "The end user, from a key that auth.front_ends names; else ignored."},
            "safety_identifier": {"description": "The same as user, if there is none."},
            "store": IGNORED,
            "service_tier": IGNORED,
            "prompt_cache_key": IGNORED,
            "prediction": IGNORED,
        },
        "StreamOptions": {
            "include_usage": {"description": "Send the tokens in a last chunk, which has no choices."},
        },
        "ImageAddress": {"url": {"description": "data:<type>;base64,<data>. No address is fetched."}},
        "CompletionMessage": {
            "content": {"description": "null: the reply is tool calls or a refusal alone."},
            v1.reasoning_field: {"description": "What the model thought before it answered; absent: nothing."},
        },
        "ErrorBody": {
            "param": {"description": "The field at fault, such as messages[0].content."},
            "code": {"description": "For programs: it does not change."},
        },
    }
