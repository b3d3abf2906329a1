"""The API under /v1, in the form of OpenAI's chat completions."""
