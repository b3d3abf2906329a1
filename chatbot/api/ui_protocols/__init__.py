"""Protocols of user interfaces: the UI message stream of Vercel's AI SDK, and AG-UI."""
