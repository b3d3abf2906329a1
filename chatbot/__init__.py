"""The chat service: command line, HTTP API, sessions, model servers, nodes and workers."""

__version__ = "0.9.2"  # the only place: pyproject.toml takes it from here, so that a checkout tells its own
