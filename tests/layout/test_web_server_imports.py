"""The web server is a detail of the HTTP API: no other part of the product imports aiohttp's server."""

import ast

import pytest

from tests.layout.imports import ROOT, source_files

API = ROOT / "chatbot" / "api"
OTHER_FILES = [path for path in source_files() if not path.is_relative_to(API)]


def web_server_imports(source: str) -> list[int]:
    """The lines that import `aiohttp.web` or a part of it."""
    if "aiohttp" not in source:
        return []
    found: list[int] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(name == "aiohttp.web" or name.startswith(("aiohttp.web.", "aiohttp.web_")) for name in names):
            found.append(node.lineno)
    return found


def test_only_the_api_imports_the_web_server() -> None:
    imports = {str(path.relative_to(ROOT)): web_server_imports(path.read_text()) for path in OTHER_FILES}
    assert {path: lines for path, lines in imports.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("from aiohttp import web", [1]),
        ("import aiohttp.web", [1]),
        ("from aiohttp.web import Request", [1]),
        ("from aiohttp.web_request import BaseRequest", [1]),
        ("if True:\n    from aiohttp import ClientSession, web", [2]),
        ("from aiohttp import ClientSession", []),
        ("import aiohttp", []),
        ("from aiohttp.websocket import WSMessage", []),
    ],
)
def test_each_form_of_the_import_is_found(source: str, lines: list[int]) -> None:
    assert web_server_imports(source) == lines
