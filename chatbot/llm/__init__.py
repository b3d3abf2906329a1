"""Model servers: one protocol, three providers (midm, openai, embedded). Knows nothing of sessions or HTTP answers."""
