"""The words of the command line: what `python run.py --help` says, and how arguments are read."""

import argparse

DESCRIPTION = """\
A chat backend whose every word is on the record.

Without a command it serves the HTTP API, with Swagger UI at /docs, on the address in config.toml
(127.0.0.1:8080). Settings come from config.toml, a .env file, the environment and the options below;
later ones win. `run.py config` shows all of them and where each came from."""
EPILOG = """\
examples:
  python run.py                                    serve, with the embedded model
  LLM_SERVER_URL=http://localhost:8000 python run.py
                                                   serve, with a model server (midm or OpenAI-compatible)
  python run.py --host 0.0.0.0 --port 9000         listen on all networks (configure API keys first)
  python run.py --reload                           serve, and start again when code or settings change
  python run.py config                             print the settings in force
  python run.py verify                             check that nobody has changed the log

exit codes: 0 served and drained, or the log holds; 1 the log does not hold; 2 wrong settings or usage;
3 the database cannot be used; 4 the address cannot be listened on; 5 the embedded model is missing;
130 a second Ctrl-C."""


def parse(arguments: list[str], version: str) -> argparse.Namespace:
    """What was asked for. Ends the program with a usage message when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="?", choices=("serve", "config", "verify"), default="serve", help="what to do (default: serve)"
    )
    parser.add_argument("--config", metavar="FILE", help="settings file in place of config.toml")
    parser.add_argument("--host", help="address to listen on, over server.host")
    parser.add_argument("--port", help="port to listen on, over server.port; 0 takes a free one")
    parser.add_argument("--reload", action="store_true", help="start again when code or settings change")
    parser.add_argument("--version", action="version", version=f"chatbot backend {version}")
    return parser.parse_args(arguments)
