"""The stateful API under /v1, in the form of OpenAI's Responses and Conversations."""
