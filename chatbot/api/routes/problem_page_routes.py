"""The pages to which the `type` of a problem leads: /problems/<name>, and /problems for all of them."""

import html
import re

from aiohttp import web

from chatbot.api.problem_types import PROBLEM_TYPES, ProblemType
from chatbot.api.responses import REVALIDATE, file_response, make_file

_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Chat backend: {title}</title>
    <style>body {{ font: 1rem/1.5 sans-serif; margin: 2rem auto; max-width: 42rem; padding: 0 1rem; }}</style>
  </head>
  <body>
    <h1>{title}</h1>
{content}
  </body>
</html>
"""
routes = web.RouteTableDef()


@routes.get("/problems")
async def problems(request: web.Request) -> web.Response:
    rows = (
        f'    <li><a href="problems/{name}">{name}</a>: {html.escape(problem.title)}{_status(problem)}</li>'
        for name, problem in PROBLEM_TYPES.items()
    )
    return _answer(request, "Types of problems", "\n".join(["    <ul>", *rows, "    </ul>"]))


@routes.get("/problems/{name}")
async def problem(request: web.Request) -> web.Response:
    """Raises HTTPNotFound for a type that does not exist."""
    name = request.match_info["name"]
    found = PROBLEM_TYPES.get(name)
    if found is None:
        raise web.HTTPNotFound
    content = (
        f"    <p>Type <code>{name}</code>{_status(found)}</p>\n"
        f"    <p>{_marked_up(found.meaning)}</p>\n"
        f"    <p>What to do: {_marked_up(found.remedy)}</p>\n"
        f'    <p><a href="../problems">All types of problems</a></p>'
    )
    return _answer(request, found.title, content)


def _answer(request: web.Request, title: str, content: str) -> web.Response:
    body = _PAGE.format(title=html.escape(title), content=content).encode()
    page = make_file(body, "text/html", REVALIDATE)
    page.headers["Content-Security-Policy"] = _CSP
    page.headers["Referrer-Policy"] = "no-referrer"
    return file_response(request, page)


def _status(found: ProblemType) -> str:
    return f", status {found.status}" if found.status else ""


def _marked_up(text: str) -> str:
    """`text` as HTML, with the names between backquotes as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
